//! What `wit-bindgen` makes of the contract. Nothing here is meant to be named by a workload:
//! the modules beside this one wrap it, and the two `export_…!` macros reach it.
//!
//! The imports are generated once and shared by every world, so that a tensor made by an
//! encoder is the tensor that the rest of the crate knows.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

/// Everything that any world imports. What a component does not call is dropped from it when
/// it is linked, so that naming it here costs no grant.
pub mod imports {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package skep:sdk;
            world imports {
                import skep:tensor/tensors@0.1.0;
                import skep:model/encoders@0.1.0;
                import skep:model/text@0.1.0;
                import skep:adapter/adapters@0.1.0;
                import skep:swarm/blobs@0.1.0;
                import skep:jobs/jobs@0.1.0;
                import skep:workload/io@0.1.0;
            }
        ",
        ownership: Borrowing { duplicate_if_necessary: false },
        generate_all,
    });
}

/// The world `task`.
pub mod task {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "skep:workload/task",
        pub_export_macro: true,
        export_macro_name: "export_task_world",
        default_bindings_module: "skep_sdk::bindings::task",
        with: {
            "skep:types/types@0.1.0": crate::bindings::imports::skep::types::types,
            "skep:tensor/tensors@0.1.0": crate::bindings::imports::skep::tensor::tensors,
            "skep:model/encoders@0.1.0": crate::bindings::imports::skep::model::encoders,
            "skep:model/text@0.1.0": crate::bindings::imports::skep::model::text,
            "skep:adapter/adapters@0.1.0": crate::bindings::imports::skep::adapter::adapters,
            "skep:swarm/blobs@0.1.0": crate::bindings::imports::skep::swarm::blobs,
            "skep:jobs/jobs@0.1.0": crate::bindings::imports::skep::jobs::jobs,
            "skep:workload/io@0.1.0": crate::bindings::imports::skep::workload::io,
        },
    });
}

/// The world `async-task`, with the interfaces that only it imports.
#[cfg(feature = "async")]
pub mod async_task {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "skep:workload/async-task",
        pub_export_macro: true,
        export_macro_name: "export_async_task_world",
        default_bindings_module: "skep_sdk::bindings::async_task",
        // As the imports are, whose types it takes.
        ownership: Borrowing { duplicate_if_necessary: false },
        with: {
            "skep:types/types@0.1.0": crate::bindings::imports::skep::types::types,
            "skep:tensor/tensors@0.1.0": crate::bindings::imports::skep::tensor::tensors,
            "skep:model/encoders@0.1.0": crate::bindings::imports::skep::model::encoders,
            "skep:model/text@0.1.0": crate::bindings::imports::skep::model::text,
            "skep:adapter/adapters@0.1.0": crate::bindings::imports::skep::adapter::adapters,
            "skep:swarm/blobs@0.1.0": crate::bindings::imports::skep::swarm::blobs,
            "skep:jobs/jobs@0.1.0": crate::bindings::imports::skep::jobs::jobs,
            "skep:workload/io@0.1.0": crate::bindings::imports::skep::workload::io,
            "skep:swarm/blob-streams@0.1.0": generate,
            "skep:model/text-streams@0.1.0": generate,
        },
    });
}

/// The world `batch-classifier`.
pub mod batch_classifier {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "skep:workload/batch-classifier",
        pub_export_macro: true,
        export_macro_name: "export_batch_classifier_world",
        default_bindings_module: "skep_sdk::bindings::batch_classifier",
        with: {
            "skep:types/types@0.1.0": crate::bindings::imports::skep::types::types,
            "skep:tensor/tensors@0.1.0": crate::bindings::imports::skep::tensor::tensors,
            "skep:model/encoders@0.1.0": crate::bindings::imports::skep::model::encoders,
            "skep:model/text@0.1.0": crate::bindings::imports::skep::model::text,
        },
    });
}
