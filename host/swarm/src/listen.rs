//! Listening, where the node did before.
//!
//! A node that was ended is looked for where it was: by whoever has its ticket or was told of it, and by those
//! whose connection to its last process has not been found to have ended. As long as there is such a connection,
//! iroh sends what begins another one to that address alone.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use iroh::endpoint::presets;
use iroh::{Endpoint, RelayMode, SecretKey};

use crate::config::transport;
use crate::disk::{Layout, write_atomic};
use crate::error::OpenError;
use crate::fault::explain;

/// Listens on `addr`, for the node with this key; also the address with its port. For port 0 that is the one
/// which was taken for it last in this folder, or another if somebody else has that now.
///
/// # Errors
///
/// When the address cannot be listened on.
pub(crate) async fn listen(
    layout: &Layout,
    key: &SecretKey,
    addr: SocketAddr,
) -> Result<(Endpoint, SocketAddr), OpenError> {
    let is_any = addr.port() == 0;
    if is_any && let Some(port) = last(layout) {
        let mut before = addr;
        before.set_port(port);
        match bind(key, before).await {
            Ok(bound) => return Ok(bound),
            Err(reason) => tracing::info!(%reason, port, "the port of before is not free"),
        }
    }
    let bound = bind(key, addr).await;
    let (endpoint, at) = bound.map_err(|reason| OpenError::Bind { addr, reason })?;
    if is_any {
        remember(layout, at.port());
    }
    Ok((endpoint, at))
}

async fn bind(key: &SecretKey, addr: SocketAddr) -> Result<(Endpoint, SocketAddr), String> {
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(key.clone())
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr(addr)
        .map_err(|e| explain(&e))?
        .transport_config(transport())
        .bind()
        .await
        .map_err(|e| explain(&e))?;
    let bound = endpoint.bound_sockets().first().copied();
    let bound = bound.ok_or_else(|| "no socket was bound".to_owned())?;
    Ok((endpoint, bound))
}

fn file(layout: &Layout) -> PathBuf {
    layout.root.join("port")
}

/// The port that was taken last. What cannot be read is none.
fn last(layout: &Layout) -> Option<u16> {
    let text = fs::read_to_string(file(layout)).ok()?;
    text.trim().parse::<u16>().ok().filter(|port| *port != 0)
}

fn remember(layout: &Layout, port: u16) {
    let line = format!("{port}\n");
    if let Err(error) = write_atomic(&file(layout), line.as_bytes()) {
        tracing::warn!(%error, "this node may be somewhere else after its next start");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn taken() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(ANY).unwrap();
        let at = socket.local_addr().unwrap();
        (socket, at)
    }

    #[tokio::test]
    async fn a_node_listens_where_it_did_unless_somebody_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let key = SecretKey::generate();
        let (other, before) = taken();
        remember(&layout, before.port());
        let (endpoint, at) = listen(&layout, &key, ANY).await.unwrap();
        assert_ne!(at, before);
        assert_eq!(last(&layout), Some(at.port()), "that is where it is now");
        endpoint.close().await;

        remember(&layout, before.port());
        drop(other);
        let (endpoint, at) = listen(&layout, &key, ANY).await.unwrap();
        assert_eq!(at, before);
        endpoint.close().await;

        // What is asked for is where it is, and nothing that is remembered.
        let (other, asked) = taken();
        let error = listen(&layout, &key, asked).await.unwrap_err();
        assert!(matches!(error, OpenError::Bind { addr, .. } if addr == asked));
        drop(other);
        let (endpoint, at) = listen(&layout, &key, asked).await.unwrap();
        assert_eq!((at, last(&layout)), (asked, Some(before.port())));
        endpoint.close().await;
    }

    #[tokio::test]
    async fn a_port_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        for damaged in ["", "0\n", "65536\n", "a port"] {
            fs::write(file(&layout), damaged).unwrap();
            assert_eq!(last(&layout), None, "{damaged:?}");
        }
        let (endpoint, at) = listen(&layout, &SecretKey::generate(), ANY).await.unwrap();
        assert_eq!(last(&layout), Some(at.port()));
        endpoint.close().await;
    }
}
