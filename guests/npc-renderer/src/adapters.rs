//! The adapters of the voices, opened once each and kept at hand.

use std::collections::BTreeMap;

use crate::bindings::skep::adapter::adapters::Adapter;
use npc_scene::bindings::skep::types::types::Error;

/// The adapters of a call. While one is in here the node keeps it at hand.
#[derive(Default)]
pub struct Adapters(BTreeMap<String, Option<(Adapter, String)>>);

impl Adapters {
    /// The digest of a voice's adapter; nothing if there is none, or no grant for it.
    ///
    /// # Errors
    /// When the node cannot open it for another reason.
    pub fn of(&mut self, voice: &str) -> Result<Option<String>, Error> {
        if !self.0.contains_key(voice) {
            let opened = match Adapter::open(&format!("voice-{voice}")) {
                Ok(adapter) => {
                    let digest = adapter.info().digest;
                    Some((adapter, digest))
                }
                Err(Error::Denied(_) | Error::NotFound(_)) => None,
                Err(error) => return Err(error),
            };
            self.0.insert(voice.to_owned(), opened);
        }
        let opened = self.0.get(voice).and_then(Option::as_ref);
        Ok(opened.map(|(_, digest)| digest.clone()))
    }
}
