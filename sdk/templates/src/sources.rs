//! The files of the templates, taken in when this crate is compiled.

/// A task in Rust.
pub const TASK_RUST: &[(&str, &str)] = &[
    (
        "src/lib.rs",
        include_str!("../../../sdk/rust/examples/similar.rs"),
    ),
    ("Cargo.toml", include_str!("../task-rust/Cargo.toml")),
    ("skep.toml", include_str!("../task-rust/skep.toml")),
    ("README.md", include_str!("../task-rust/README.md")),
    (".gitignore", include_str!("../gitignore/rust")),
];

/// A task in Rust that writes with a language model.
pub const TEXT_RUST: &[(&str, &str)] = &[
    (
        "src/lib.rs",
        include_str!("../../../sdk/rust/examples/generate.rs"),
    ),
    ("Cargo.toml", include_str!("../text-rust/Cargo.toml")),
    ("skep.toml", include_str!("../text-rust/skep.toml")),
    ("README.md", include_str!("../text-rust/README.md")),
    (".gitignore", include_str!("../gitignore/rust")),
];

/// A batch classifier in Rust.
pub const BATCH_CLASSIFIER_RUST: &[(&str, &str)] = &[
    (
        "src/lib.rs",
        include_str!("../../../guests/batch-classifier/src/lib.rs"),
    ),
    (
        "src/lesson.rs",
        include_str!("../../../guests/batch-classifier/src/lesson.rs"),
    ),
    (
        "src/head.rs",
        include_str!("../../../guests/batch-classifier/src/head.rs"),
    ),
    (
        "src/taught.rs",
        include_str!("../../../guests/batch-classifier/src/taught.rs"),
    ),
    (
        "Cargo.toml",
        include_str!("../batch-classifier-rust/Cargo.toml"),
    ),
    (
        "skep.toml",
        include_str!("../batch-classifier-rust/skep.toml"),
    ),
    (
        "README.md",
        include_str!("../batch-classifier-rust/README.md"),
    ),
    (".gitignore", include_str!("../gitignore/rust")),
];

/// A batch classifier in Python.
pub const BATCH_CLASSIFIER_PYTHON: &[(&str, &str)] = &[
    (
        "app.py",
        include_str!("../../../sdk/python/examples/batch_classifier/app.py"),
    ),
    (
        "requirements.txt",
        include_str!("../../../sdk/python/requirements.txt"),
    ),
    (
        "skep.toml",
        include_str!("../batch-classifier-python/skep.toml"),
    ),
    (
        "README.md",
        include_str!("../batch-classifier-python/README.md"),
    ),
    (".gitignore", include_str!("../gitignore/python")),
];

/// A batch classifier in JavaScript.
pub const BATCH_CLASSIFIER_JS: &[(&str, &str)] = &[
    (
        "app.js",
        include_str!("../../../sdk/js/examples/batch-classifier/app.js"),
    ),
    (
        "package.json",
        include_str!("../batch-classifier-js/package.json"),
    ),
    (
        "skep.toml",
        include_str!("../batch-classifier-js/skep.toml"),
    ),
    (
        "README.md",
        include_str!("../batch-classifier-js/README.md"),
    ),
    (".gitignore", include_str!("../gitignore/js")),
];

/// The SDK for Rust, relative to its folder.
pub const SDK: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../sdk/rust/Cargo.toml")),
    (
        "src/adapter.rs",
        include_str!("../../../sdk/rust/src/adapter.rs"),
    ),
    (
        "src/bindings.rs",
        include_str!("../../../sdk/rust/src/bindings.rs"),
    ),
    ("src/blob.rs", include_str!("../../../sdk/rust/src/blob.rs")),
    (
        "src/blob_stream.rs",
        include_str!("../../../sdk/rust/src/blob_stream.rs"),
    ),
    (
        "src/classifier.rs",
        include_str!("../../../sdk/rust/src/classifier.rs"),
    ),
    (
        "src/encoder.rs",
        include_str!("../../../sdk/rust/src/encoder.rs"),
    ),
    (
        "src/error.rs",
        include_str!("../../../sdk/rust/src/error.rs"),
    ),
    ("src/jobs.rs", include_str!("../../../sdk/rust/src/jobs.rs")),
    ("src/lib.rs", include_str!("../../../sdk/rust/src/lib.rs")),
    (
        "src/stream.rs",
        include_str!("../../../sdk/rust/src/stream.rs"),
    ),
    (
        "src/tensor.rs",
        include_str!("../../../sdk/rust/src/tensor.rs"),
    ),
    ("src/text.rs", include_str!("../../../sdk/rust/src/text.rs")),
    (
        "src/text_stream.rs",
        include_str!("../../../sdk/rust/src/text_stream.rs"),
    ),
];

/// The contract, relative to its folder.
pub const WIT: &[(&str, &str)] = &[
    (
        "deps/adapter/adapter.wit",
        include_str!("../../../wit/deps/adapter/adapter.wit"),
    ),
    (
        "deps/jobs/jobs.wit",
        include_str!("../../../wit/deps/jobs/jobs.wit"),
    ),
    (
        "deps/model/model.wit",
        include_str!("../../../wit/deps/model/model.wit"),
    ),
    (
        "deps/swarm/swarm.wit",
        include_str!("../../../wit/deps/swarm/swarm.wit"),
    ),
    (
        "deps/tensor/tensor.wit",
        include_str!("../../../wit/deps/tensor/tensor.wit"),
    ),
    (
        "deps/train/train.wit",
        include_str!("../../../wit/deps/train/train.wit"),
    ),
    (
        "deps/types/types.wit",
        include_str!("../../../wit/deps/types/types.wit"),
    ),
    (
        "deps/verify/verify.wit",
        include_str!("../../../wit/deps/verify/verify.wit"),
    ),
    ("workload.wit", include_str!("../../../wit/workload.wit")),
];
