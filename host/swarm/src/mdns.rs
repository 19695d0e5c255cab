//! Finding nodes on the local network (mDNS).
//!
//! Nodes announce themselves under a service name of skep's own and say in their record which
//! version of the protocol they speak; records of other programs are ignored. What a node offers
//! is not announced: whoever looks for a package asks the nodes found over `skep/releases/1`, and
//! whoever looks for work asks them over `skep/gossip/1` for their signed announcements.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use iroh::Endpoint;
use iroh::address_lookup::UserData;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use n0_future::boxed::BoxStream;
use n0_future::task::AbortOnDropHandle;
use n0_future::{StreamExt, stream};
use tokio::sync::broadcast;

use crate::discovery::{Discovery, Want};
use crate::ids::{NodeId, ProviderAddr};

/// The service name under which nodes announce themselves.
const SERVICE: &str = "skep";
/// What a node's record says.
const USER_DATA: &str = "skep/releases/1";
/// The most nodes remembered; a network with more announces faster than anybody could ask.
const MAX_KNOWN: usize = 1024;

/// Nodes that announce themselves on the local network.
#[derive(Clone, Debug)]
pub struct MdnsDiscovery {
    known: Arc<Mutex<HashMap<NodeId, ProviderAddr>>>,
    news: broadcast::Sender<ProviderAddr>,
    _listener: Arc<AbortOnDropHandle<()>>,
}

impl MdnsDiscovery {
    /// Announces `endpoint` and listens for others.
    pub(crate) async fn start(endpoint: &Endpoint) -> Result<Self, String> {
        let data = UserData::try_from(USER_DATA.to_owned()).map_err(|e| e.to_string())?;
        endpoint.set_user_data_for_address_lookup(Some(data));
        let mdns = MdnsAddressLookup::builder()
            .service_name(SERVICE)
            .build(endpoint.id())
            .map_err(|e| e.to_string())?;
        let mut events = mdns.subscribe().await;
        endpoint
            .address_lookup()
            .map_err(|e| e.to_string())?
            .add(mdns);
        let known: Arc<Mutex<HashMap<NodeId, ProviderAddr>>> = Arc::default();
        let (news, _) = broadcast::channel(64);
        let listener = {
            let (known, news) = (known.clone(), news.clone());
            async move {
                while let Some(event) = events.next().await {
                    hear(&known, &news, event);
                }
            }
        };
        Ok(Self {
            known,
            news,
            _listener: Arc::new(AbortOnDropHandle::new(tokio::spawn(listener))),
        })
    }
}

fn hear(
    known: &Mutex<HashMap<NodeId, ProviderAddr>>,
    news: &broadcast::Sender<ProviderAddr>,
    event: DiscoveryEvent,
) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        DiscoveryEvent::Discovered { endpoint_info, .. } => {
            if endpoint_info.user_data().map(AsRef::as_ref) != Some(USER_DATA) {
                return;
            }
            let node = ProviderAddr::from_endpoint_addr(&endpoint_info.to_endpoint_addr());
            if known.len() < MAX_KNOWN || known.contains_key(&node.id) {
                known.insert(node.id, node.clone());
                // Nobody listening is nobody looking.
                let _ = news.send(node);
            }
        }
        DiscoveryEvent::Expired { endpoint_id } => {
            known.remove(&NodeId::from(endpoint_id));
        }
        _ => {}
    }
}

impl Discovery for MdnsDiscovery {
    fn name(&self) -> &'static str {
        "mdns"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        // Subscribed before the known ones are read, so that none falls between.
        let news = self.news.subscribe();
        let known: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().cloned().collect()
        };
        let later = stream::unfold(news, |mut news| async move {
            loop {
                match news.recv().await {
                    Ok(node) => return Some((node, news)),
                    // Those that were missed are known to the next who asks.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        stream::iter(known).chain(later).boxed()
    }
}
