//! The adapters of the voices, opened once each and kept at hand.

use std::collections::BTreeMap;

use crate::bindings::skep::adapter::adapters::Adapter;
use npc_scene::bindings::skep::types::types::Error;

/// The adapters of a call. While one is in here the node keeps it at hand.
#[derive(Default)]
pub struct Adapters(BTreeMap<String, Option<(Adapter, Voice)>>);

/// A voice's adapter.
#[derive(Clone)]
pub struct Voice {
    /// The name that it was granted and opened under: requests that name it so are answered with
    /// the version that is open.
    pub name: String,
    /// Its digest, for the reply.
    pub digest: String,
}

impl Adapters {
    /// A voice's adapter; nothing if there is none, or no grant for it.
    ///
    /// # Errors
    /// When the node cannot open it for another reason.
    pub fn of(&mut self, voice: &str) -> Result<Option<Voice>, Error> {
        if !self.0.contains_key(voice) {
            let name = format!("voice-{voice}");
            let opened = match Adapter::open(&name) {
                Ok(adapter) => {
                    let digest = adapter.info().digest;
                    Some((adapter, Voice { name, digest }))
                }
                Err(Error::Denied(_) | Error::NotFound(_)) => None,
                Err(error) => return Err(error),
            };
            self.0.insert(voice.to_owned(), opened);
        }
        let opened = self.0.get(voice).and_then(Option::as_ref);
        Ok(opened.map(|(_, voice)| voice.clone()))
    }
}
