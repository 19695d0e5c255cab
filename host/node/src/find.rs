//! From the command line of finding nodes to a request.
//!
//! Nothing is looked up here, and what is wrong is told with the name of its option.

use std::error::Error;

use skep_devices::DeviceName;
use skep_evidence::Credits;
use skep_registry::units;

use crate::cli::Find;
use crate::failure::{Failure, FailureKind};
use crate::requests::Request;
use crate::requests::found::FindRequest;

/// What the command asks.
pub fn request_of(find: Find) -> Result<Request, Failure> {
    let device = find.device.map(|name| name.parse::<DeviceName>());
    let device = device
        .transpose()
        .map_err(|error| wrong("device", &error))?;
    let memory = match &find.memory {
        None => 0,
        Some(text) => units::parse_bytes(text).map_err(|error| wrong("memory", &error))?,
    };
    let wait = units::parse_duration(&find.wait).map_err(|error| wrong("wait", &error))?;
    if wait.is_zero() {
        return Err(Failure::new(
            FailureKind::Usage,
            "--wait: in no time nobody is found; write for example `5 s`",
        ));
    }
    Ok(Request::Find(Box::new(FindRequest {
        device: device.map(|device| device.to_string()),
        memory,
        ready: find.ready,
        teraflop_micro: price("price-per-teraflop", find.price_per_teraflop)?,
        gigabyte_micro: price("price-per-gigabyte", find.price_per_gigabyte)?,
        hour_micro: price("price-per-hour", find.price_per_hour)?,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    })))
}

/// A price in micro-credits, if one was given.
fn price(option: &str, text: Option<String>) -> Result<Option<u64>, Failure> {
    let parsed = text.map(|text| text.parse::<Credits>());
    let credits = parsed.transpose().map_err(|error| wrong(option, &error))?;
    Ok(credits.map(Credits::micro))
}

fn wrong(option: &str, error: &dyn Error) -> Failure {
    Failure::new(FailureKind::Usage, format!("--{option}: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn find() -> Find {
        Find {
            device: Some("cuda".to_owned()),
            memory: Some("8GiB".to_owned()),
            ready: vec!["writer".to_owned()],
            price_per_teraflop: Some("0.002".to_owned()),
            price_per_gigabyte: None,
            price_per_hour: Some("1".to_owned()),
            wait: "5s".to_owned(),
        }
    }

    #[test]
    fn a_request_has_devices_as_nodes_announce_them_and_whole_units() {
        let Ok(Request::Find(request)) = request_of(find()) else {
            panic!("it is sound");
        };
        // An owner's `cuda` is the first card.
        assert_eq!(request.device.as_deref(), Some("cuda:0"));
        assert_eq!(request.memory, 8 << 30);
        assert_eq!(request.ready, ["writer"]);
        let prices = [
            request.teraflop_micro,
            request.gigabyte_micro,
            request.hour_micro,
        ];
        assert_eq!(prices, [Some(2_000), None, Some(1_000_000)]);
        assert_eq!(request.wait_ms, 5_000);
    }

    /// What makes a search one that cannot be.
    type Change<'a> = &'a dyn Fn(&mut Find);

    #[test]
    fn what_is_wrong_is_told_with_its_option() {
        let wrong: [(&str, Change<'_>); 5] = [
            ("--device: ", &|find| find.device = Some("gpu".to_owned())),
            ("--memory: ", &|find| find.memory = Some("8".to_owned())),
            ("--price-per-teraflop: ", &|find| {
                find.price_per_teraflop = Some("free".to_owned());
            }),
            ("--wait: ", &|find| find.wait = "a while".to_owned()),
            ("--wait: ", &|find| find.wait = "0 s".to_owned()),
        ];
        for (option, change) in wrong {
            let mut find = find();
            change(&mut find);
            let failure = request_of(find).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.message.starts_with(option), "{failure}");
        }
    }
}
