//! What `wit-bindgen` makes of the world `verifier`.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "skep:workload/verifier",
    generate_all,
});
