//! An encoder with an adapter, as a guest has it: only one that was granted, and only on its own base.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use common::{BusyEncoder, load, spec, tight};
use skep_sandbox::{
    AdapterInfo, Cancel, EncoderInfo, FailedRun, LanguageModel, ModelError, Models, Residency,
    RunError, RunReport, RunSpec, Sandbox, TextAdapter, TextEncoder,
};
use skep_tensor::{Account, Device, Tensor};

/// Operations that the adapter takes to be read.
const READING: u64 = 1_000_000;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

/// Models of a node that has one encoder, and one adapter.
struct Node {
    encoder: Arc<dyn TextEncoder>,
    /// How often an adapter was opened.
    opened: Arc<AtomicUsize>,
}

impl Models for Node {
    fn open(&self, _: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Ok(Arc::clone(&self.encoder))
    }

    fn open_text(&self, name: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_adapter(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        account.goes_on(READING)?;
        match name {
            "village" => Ok(Arc::new(Village)),
            _ => Err(ModelError::NotFound(name.to_owned())),
        }
    }
}

struct Village;

impl TextAdapter for Village {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: "village".to_owned(),
            digest: "2".repeat(64),
            base: "1".repeat(64),
            base_name: "teller".to_owned(),
            rank: 8,
            bytes: 11,
        }
    }

    fn residency(&self) -> Residency {
        Residency::Device
    }

    fn engine_name(&self) -> String {
        "village".to_owned()
    }
}

/// An encoder whose adapters tell so many classes apart.
#[derive(Clone, Default)]
struct Teller {
    classes: Vec<String>,
    classified: Arc<AtomicUsize>,
}

impl TextEncoder for Teller {
    fn info(&self) -> EncoderInfo {
        EncoderInfo {
            name: "teller".to_owned(),
            digest: "1".repeat(64),
            ..BusyEncoder.info()
        }
    }

    fn count_tokens(&self, texts: &[String], account: &Account) -> Result<Vec<u32>, ModelError> {
        BusyEncoder.count_tokens(texts, account)
    }

    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        BusyEncoder.embed(texts, account)
    }

    fn adapted(&self, adapter: &dyn TextAdapter) -> Result<Arc<dyn TextEncoder>, ModelError> {
        assert_eq!(adapter.info().name, "village");
        Ok(Arc::new(Teller {
            classes: vec!["billing".to_owned(), "refunds".to_owned()],
            ..self.clone()
        }))
    }

    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    fn classify(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        self.classified.fetch_add(texts.len(), Ordering::Relaxed);
        let rows = vec![-0.5; texts.len() * self.classes.len()];
        let shape = [texts.len() as u32, self.classes.len() as u32];
        Tensor::from_f32(&Device::cpu(), account, &rows, &shape)
            .map_err(|error| ModelError::Failed(error.to_string()))
    }
}

fn with(encoder: impl TextEncoder, opened: &Arc<AtomicUsize>) -> RunSpec {
    RunSpec {
        models: Some(Arc::new(Node {
            encoder: Arc::new(encoder),
            opened: Arc::clone(opened),
        })),
        ..spec(tight())
    }
}

fn classes(spec: &RunSpec, output: &mut Vec<u8>) -> Result<RunReport, FailedRun> {
    let program = load(&SANDBOX, "honest/classes");
    let (input, cancel) = (std::io::empty(), Cancel::new());
    SANDBOX.run_task(&program, spec, &[], input, output, &cancel)
}

#[test]
fn an_encoder_with_an_adapter_tells_its_classes_apart() {
    let (teller, opened) = (Teller::default(), Arc::default());
    let classified = Arc::clone(&teller.classified);
    let mut output = Vec::new();
    let report = classes(&with(teller, &opened), &mut output).unwrap();
    assert_eq!(output, b"billing");
    assert_eq!(classified.load(Ordering::Relaxed), 1);
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    assert_eq!(report.adapter_bytes, 11);
    // And little more, for the two numbers.
    assert_eq!(report.flops / READING, 1);
    // Two numbers for the one text.
    assert_eq!(report.device_bytes_peak, 8);
}

#[test]
fn an_adapter_that_was_not_granted_is_refused_before_anybody_looks_for_it() {
    let opened = Arc::default();
    for granted in [None, Some("town")] {
        let mut spec = with(Teller::default(), &opened);
        spec.grants.adapters = granted.iter().map(|name| name.parse().unwrap()).collect();
        let failed = classes(&spec, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(&failed.error, RunError::Guest(text)
                if text.contains("grants.adapters: \"village\"")),
            "{failed}"
        );
    }
    assert_eq!(opened.load(Ordering::Relaxed), 0);
}

#[test]
fn an_adapter_of_another_encoder_is_named_with_its_base() {
    let failed = classes(&with(BusyEncoder, &Arc::default()), &mut Vec::new()).unwrap_err();
    let text = failed.to_string();
    assert!(text.contains("village changes teller"), "{text}");
    assert!(text.contains("this encoder is busy"), "{text}");
}
