//! What `wit-bindgen` makes of the world `npc-renderer`.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "skep:workload/npc-renderer",
    with: {
        "skep:workload/npc@0.1.0": npc_scene::bindings::skep::workload::npc,
        "skep:types/types@0.1.0": npc_scene::bindings::skep::types::types,
        "skep:model/text@0.1.0": generate,
        "skep:adapter/adapters@0.1.0": generate,
        "skep:tensor/tensors@0.1.0": generate,
    },
});
