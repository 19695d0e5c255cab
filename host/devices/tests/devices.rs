//! Devices by their names: what is one, and that the one that was named computes or nobody does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use skep_devices::{DeviceName, OpenError, is_built, open};
use skep_kernels::Team;

#[test]
fn names_are_read_and_written_alike() {
    for (said, device, written) in [
        ("processor", DeviceName::Processor, "processor"),
        ("cuda", DeviceName::Cuda(0), "cuda:0"),
        ("cuda:3", DeviceName::Cuda(3), "cuda:3"),
        ("vulkan", DeviceName::Vulkan(None), "vulkan"),
        ("vulkan:0", DeviceName::Vulkan(Some(0)), "vulkan:0"),
    ] {
        assert_eq!(said.parse(), Ok(device));
        assert_eq!(device.to_string(), written);
        assert_eq!(written.parse(), Ok(device));
    }
    for wrong in [
        "",
        "gpu",
        "CUDA",
        "cuda:",
        "cuda:x",
        "cuda:+1",
        "cuda:-1",
        "cuda:99999999999999999999",
        "processor:0",
        "vulkan:1:2",
        " cuda",
    ] {
        let error = wrong.parse::<DeviceName>().unwrap_err().to_string();
        assert!(error.contains("devices are"), "{error}");
    }
}

#[test]
fn a_device_that_cannot_be_reached_is_not_replaced_by_another() {
    let team = Arc::new(Team::new(1).unwrap());
    let open = |device| open(device, Arc::clone(&team));
    assert_eq!(open(DeviceName::Processor).unwrap().name(), "processor");
    assert_eq!(is_built(DeviceName::Processor), Ok(()));
    for (device, has_way) in [
        (DeviceName::Cuda(97), cfg!(feature = "cuda")),
        (
            DeviceName::Vulkan(Some(97)),
            cfg!(any(feature = "wgsl", feature = "vulkan")),
        ),
    ] {
        let error = open(device).err().unwrap();
        assert_eq!(
            matches!(error, OpenError::NoDevice { .. }),
            has_way,
            "{error}"
        );
        // Without a way it is known before anything is opened, and told in the same words.
        let unbuilt = (!has_way).then(|| error.clone());
        assert_eq!(is_built(device).err(), unbuilt);
        let said = error.to_string();
        assert!(said.contains(&device.to_string()), "{said}");
        assert_eq!(said.contains("--features"), !has_way, "{said}");
    }
}

#[cfg(feature = "wgsl")]
#[test]
fn a_named_device_writes_what_the_processor_writes() {
    use skep_accounts::Account;
    use skep_engine::{Caller, Engine, LanguageModel, Options, Priority, Request};

    let path = "../../models/skep-mini-lm/skep-mini-lm.gguf";
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    let model = Arc::new(LanguageModel::load("skep-mini-lm", &path).unwrap());
    let prompts = ["The bees", "What does \"honey\" mean?", "Do you have work"];
    let team = Arc::new(Team::new(2).unwrap());
    let texts = ["processor", "vulkan"].map(|name| {
        let backend = open(name.parse().unwrap(), Arc::clone(&team)).unwrap();
        let options = Options {
            pages: 64,
            ..Options::default()
        };
        let engine = Engine::start_on(Arc::clone(&model), &*backend, options).unwrap();
        assert_eq!(engine.device(), name);
        let caller = Caller {
            account: Account::unlimited(),
            owner: 1,
            priority: Priority::Normal,
        };
        let requests = prompts
            .iter()
            .map(|prompt| Request::greedy(model.encode_text(prompt).unwrap(), 12));
        let answers = engine.generate(&caller, requests.collect()).wait();
        let texts = answers.into_iter().map(|answer| answer.unwrap().remove(0));
        texts.map(|text| text.text).collect::<Vec<_>>()
    });
    println!("{texts:#?}");
    // Activations of 8 bits between two integers are rounded to either, so that a text may turn
    // elsewhere by and by; the first words of a trained model are not that close.
    for (one, other) in texts[0].iter().zip(&texts[1]) {
        let alike = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
        assert!(alike.count() * 2 >= one.chars().count(), "{one} | {other}");
    }
}
