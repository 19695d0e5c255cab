//! The contract in `wit/` as Rust: one trait for each interface that guests import, one type
//! for each world that they export. Generated; the hand-written side is in `interfaces`.

#![allow(missing_docs, reason = "the contract's own documentation is in wit/")]

/// The world `task`, and every interface that any world imports.
pub(crate) mod task {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/task",
        imports: {
            "skep:model/encoders.[static]encoder.open": async | trappable,
            "skep:model/encoders.[method]encoder.count-tokens": async | trappable,
            "skep:model/encoders.[method]encoder.embed": async | trappable,
            "skep:model/encoders.[method]encoder.with-adapter": async | trappable,
            "skep:model/encoders.[method]encoder.classify": async | trappable,
            "skep:model/text.[static]language-model.open": async | trappable,
            "skep:model/text.[method]language-model.tokenize": async | trappable,
            "skep:model/text.[method]language-model.detokenize": async | trappable,
            "skep:model/text.[method]language-model.generate": async | trappable,
            "skep:model/text.[method]language-model.start": async | trappable,
            "skep:model/text.[method]language-model.score": async | trappable,
            "skep:model/text.[method]language-model.embed": async | trappable,
            "skep:model/text.[method]generation.next": async | trappable,
            "skep:adapter/adapters.[static]adapter.open": async | trappable,
            "skep:swarm/blobs.[static]blob.open": async | trappable,
            "skep:swarm/blobs.[method]blob.read": async | trappable,
            "skep:swarm/blobs.[static]blob-writer.create": async | trappable,
            "skep:swarm/blobs.[method]blob-writer.append": async | trappable,
            "skep:swarm/blobs.[static]blob-writer.finish": async | trappable,
            "skep:jobs/jobs.submit": async | trappable,
            "skep:jobs/jobs.submit-with": async | trappable,
            "skep:jobs/jobs.find": async | trappable,
            "skep:jobs/jobs.[method]job.status": async | trappable,
            "skep:jobs/jobs.[method]job.wait": async | trappable,
            "skep:jobs/jobs.[method]job.cancel": async | trappable,
            "skep:jobs/jobs.[method]job.read": async | trappable,
            "skep:workload/io": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "skep:tensor/tensors.tensor": skep_tensor::Tensor,
            "skep:model/encoders.encoder": crate::models::OpenEncoder,
            "skep:model/text.language-model": crate::language::OpenModel,
            "skep:model/text.generation": crate::writing::Writing,
            "skep:adapter/adapters.adapter": crate::language::OpenAdapter,
            "skep:swarm/blobs.blob": crate::blobs::OpenBlob,
            "skep:swarm/blobs.blob-writer": crate::blobs::OpenWriter,
            "skep:jobs/jobs.job": crate::jobs::OpenJob,
        },
        trappable_error_type: {
            "skep:types/types.error" => crate::interfaces::HostError,
        },
        require_store_data_send: true,
    });
}

/// The world `async-task`, and what only asynchronous components import.
pub(crate) mod async_task {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/async-task",
        imports: {
            "skep:swarm/blob-streams": store | trappable,
            "skep:model/text-streams": store | trappable,
            default: trappable,
        },
        exports: { default: async | store },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
            "skep:tensor/tensors": crate::bindings::task::skep::tensor::tensors,
            "skep:model/encoders": crate::bindings::task::skep::model::encoders,
            "skep:model/text": crate::bindings::task::skep::model::text,
            "skep:adapter/adapters": crate::bindings::task::skep::adapter::adapters,
            "skep:swarm/blobs": crate::bindings::task::skep::swarm::blobs,
            "skep:jobs/jobs": crate::bindings::task::skep::jobs::jobs,
            "skep:workload/io": crate::bindings::task::skep::workload::io,
        },
        require_store_data_send: true,
    });
}

/// The world `village`, and the records that it shares with renderers.
pub(crate) mod village {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/village",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
        },
        additional_derives: [PartialEq],
        require_store_data_send: true,
    });
}

/// The world `npc-renderer`.
pub(crate) mod renderer {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/npc-renderer",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
            "skep:tensor/tensors": crate::bindings::task::skep::tensor::tensors,
            "skep:model/text": crate::bindings::task::skep::model::text,
            "skep:adapter/adapters": crate::bindings::task::skep::adapter::adapters,
            "skep:workload/npc": crate::bindings::village::skep::workload::npc,
        },
        additional_derives: [PartialEq],
        require_store_data_send: true,
    });
}

/// The world `verifier`, and the interfaces that only it imports.
pub(crate) mod verifier {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/verifier",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
            "skep:tensor/tensors": crate::bindings::task::skep::tensor::tensors,
            "skep:model/encoders": crate::bindings::task::skep::model::encoders,
            "skep:verify/contents.content": crate::interfaces::contents::OpenContent,
        },
        trappable_error_type: {
            "skep:types/types.error" => crate::interfaces::HostError,
        },
        require_store_data_send: true,
    });
}

/// The world `fine-tune`, and the interface that only it imports.
pub(crate) mod fine_tune {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/fine-tune",
        imports: {
            "skep:train/training.[static]trainer.kind-of": async | trappable,
            "skep:train/training.[static]trainer.open": async | trappable,
            "skep:train/training.[static]trainer.open-with-magnitudes": async | trappable,
            "skep:train/training.[method]trainer.compute-in": async | trappable,
            "skep:train/training.[method]trainer.encode": async | trappable,
            "skep:train/training.[method]trainer.forward-backward": async | trappable,
            "skep:train/training.[method]trainer.optim-step": async | trappable,
            "skep:train/training.[method]trainer.evaluate": async | trappable,
            "skep:train/training.[method]trainer.reference-log-probabilities": async | trappable,
            "skep:train/training.[method]trainer.sample": async | trappable,
            "skep:train/training.[method]trainer.continue-from": async | trappable,
            "skep:train/training.[method]trainer.checkpoint": async | trappable,
            "skep:train/training.[method]trainer.resume": async | trappable,
            "skep:train/training.[method]trainer.save": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
            "skep:tensor/tensors": crate::bindings::task::skep::tensor::tensors,
            "skep:model/text": crate::bindings::task::skep::model::text,
            "skep:workload/io": crate::bindings::task::skep::workload::io,
            "skep:train/training.trainer": crate::training::OpenTrainer,
        },
        trappable_error_type: {
            "skep:types/types.error" => crate::interfaces::HostError,
        },
        require_store_data_send: true,
    });
}

/// The world `batch-classifier`.
pub(crate) mod classifier {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "skep:workload/batch-classifier",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "skep:types/types": crate::bindings::task::skep::types::types,
            "skep:tensor/tensors": crate::bindings::task::skep::tensor::tensors,
            "skep:model/encoders": crate::bindings::task::skep::model::encoders,
            "skep:model/text": crate::bindings::task::skep::model::text,
        },
        require_store_data_send: true,
    });
}
