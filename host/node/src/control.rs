//! How a command reaches the node that is running in the same home folder.
//!
//! The running node holds the blob store, so a command that needs it asks the node over a
//! Unix socket in the home folder, which only its owner can open. A conversation is one request
//! and then any number of events, the last of which is the outcome; each is one line of JSON.
//! Closing the connection cancels the request.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::failure::{Failure, FailureKind};
use crate::requests::{Progress, Request, Response};

/// The longest request or event, in bytes. Results go to files, so that a line stays short.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// Steps that are told and not passed on yet; who tells more waits, or leaves some out.
pub const STEPS: usize = 64;

/// What the node says in answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// How far the request has come.
    Progress(Progress),
    /// The request is done.
    Done(Box<Response>),
    /// The request failed.
    Failed(Failure),
}

/// The socket of the home folder.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join("control.sock")
}

/// Connects to the node running in this home, if there is one.
pub async fn connect(home: &Path) -> Option<UnixStream> {
    UnixStream::connect(socket_path(home)).await.ok()
}

/// Asks the running node, passing on its progress.
pub async fn ask(
    stream: UnixStream,
    request: &Request,
    progress: &mut dyn FnMut(Progress),
) -> Result<Response, Failure> {
    let (reader, mut writer) = stream.into_split();
    write_line(&mut writer, request).await.map_err(lost)?;
    let mut lines = BufReader::new(reader);
    loop {
        let line = read_line(&mut lines).await.map_err(lost)?.ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                "the node stopped before it had answered; its own output says why",
            )
        })?;
        match serde_json::from_str(&line).map_err(|error| lost(io::Error::other(error)))? {
            Event::Progress(step) => progress(step),
            Event::Done(response) => return Ok(*response),
            Event::Failed(failure) => return Err(failure),
        }
    }
}

/// Listens on the home's socket. A socket left over from a node that was killed is replaced;
/// the caller holds the home's lock, so no living node can own it.
pub fn listen(home: &Path) -> io::Result<UnixListener> {
    let path = socket_path(home);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(listener)
}

/// Serves one connection: reads the request, runs `answer`, and passes on what it reports.
/// Dropping the connection drops the future of `answer`.
pub async fn serve<F>(
    stream: UnixStream,
    answer: impl FnOnce(Request, mpsc::Sender<Progress>) -> F,
) -> io::Result<()>
where
    F: Future<Output = Result<Response, Failure>>,
{
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let Some(line) = read_line(&mut reader).await? else {
        return Ok(());
    };
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let failure = Failure::new(
                FailureKind::Usage,
                format!(
                    "the node does not understand this request ({error}); are the command and the node of the same version?"
                ),
            );
            return write_line(&mut writer, &Event::Failed(failure)).await;
        }
    };
    let (sender, mut receiver) = mpsc::channel(STEPS);
    let outcome = answer(request, sender);
    tokio::pin!(outcome);
    let outcome = loop {
        tokio::select! {
            Some(step) = receiver.recv() => write_line(&mut writer, &Event::Progress(step)).await?,
            outcome = &mut outcome => break outcome,
            // The client says nothing after its request, so this ends when it has gone.
            _ = read_line(&mut reader) => return Ok(()),
        }
    };
    // What it told last is still on its way when the outcome is there.
    while let Ok(step) = receiver.try_recv() {
        write_line(&mut writer, &Event::Progress(step)).await?;
    }
    let event = match outcome {
        Ok(response) => Event::Done(Box::new(response)),
        Err(failure) => Event::Failed(failure),
    };
    write_line(&mut writer, &event).await
}

async fn write_line<T: Serialize>(
    writer: &mut (impl AsyncWriteExt + Unpin),
    value: &T,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<String>> {
    use tokio::io::AsyncReadExt;
    let mut line = String::new();
    let read = reader.take(LONGEST_LINE).read_line(&mut line).await?;
    if read as u64 == LONGEST_LINE {
        return Err(io::Error::other("a line on the control socket is too long"));
    }
    Ok((read > 0).then_some(line))
}

fn lost(error: io::Error) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!("lost the connection to the node running in this home folder: {error}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::requests::{Listed, Unit};

    #[tokio::test]
    async fn every_step_that_was_told_is_passed_on_before_the_outcome() {
        let step = |done| Progress {
            stage: "a stage".to_owned(),
            done,
            total: None,
            unit: Unit::Shards,
            training: None,
            shard: None,
        };
        // Which of two things that are there at once is seen first is a matter of chance.
        for _ in 0..50 {
            let (near, far) = UnixStream::pair().unwrap();
            let served = serve(far, |_, steps| async move {
                for done in 0..STEPS as u64 {
                    steps.send(step(done)).await.unwrap();
                }
                Ok(Response::Listed(Listed {
                    packages: Vec::new(),
                }))
            });
            let mut told = Vec::new();
            let mut hear = |step: Progress| told.push(step.done);
            let asked = ask(near, &Request::List, &mut hear);
            let (served, answer) = tokio::join!(served, asked);
            served.unwrap();
            assert!(matches!(answer.unwrap(), Response::Listed(_)));
            assert_eq!(told, (0..STEPS as u64).collect::<Vec<_>>());
        }
    }
}
