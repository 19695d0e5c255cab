//! `skep node`: serves what is here to the swarm, and answers the commands of its owner.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::cli::Node;
use crate::config::Config;
use crate::control;
use crate::display;
use crate::failure::{Failure, FailureKind};
use crate::home::Home;
use crate::requests::{Request, Response};
use crate::service::Service;

/// Runs until interrupted or asked to end.
pub async fn run(home: Home, options: &Node, json: bool) -> Result<(), Failure> {
    let mut config = Config::load(&home)?;
    if let Some(listen) = options.listen {
        config.network.listen = listen;
    }
    config.network.mdns &= !options.no_mdns;
    let service = Arc::new(Service::new(home.clone(), config)?);
    // A node may be up for days before somebody needs them.
    service.has_ways()?;
    // Opening the swarm takes the home's lock, so that the socket is ours from here on.
    service.swarm().await?;
    let listener = control::listen(home.path()).map_err(|error| {
        Failure::new(
            FailureKind::Failed,
            format!(
                "cannot listen on {}: {error}",
                control::socket_path(home.path()).display()
            ),
        )
    })?;
    service.serve_jobs().await?;
    let (sender, _) = tokio::sync::mpsc::channel(1);
    let status = service.answer(Request::Status, sender).await?;
    announce(&status, json);

    let mut conversations = JoinSet::new();
    let ended = end_signal();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let Ok((stream, _)) = connection else { continue };
                let service = Arc::clone(&service);
                conversations.spawn(async move {
                    let served = control::serve(stream, |request, progress| async move {
                        service.answer(request, progress).await
                    });
                    if let Err(error) = served.await {
                        tracing::info!(%error, "a command went away before its answer");
                    }
                });
            }
            Some(_) = conversations.join_next() => {}
            () = &mut ended => break,
        }
    }
    conversations.shutdown().await;
    let _ = std::fs::remove_file(control::socket_path(home.path()));
    service.shutdown().await;
    Ok(())
}

fn announce(status: &Response, json: bool) {
    if json {
        match serde_json::to_string(status) {
            Ok(text) => tell!("{text}"),
            Err(error) => tell_error!("error: the status cannot be written as JSON: {error}"),
        }
    } else {
        display::print(status);
        tell!("Serving until interrupted. Other commands in this home ask this node.");
    }
}

/// Waits for Ctrl-C, or for the system to ask.
async fn end_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
