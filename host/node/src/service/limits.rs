//! Who set the limits of a run: for whoever reaches one, and wants to raise it.

use skep_registry::Limits;
use skep_sandbox::{RunLimits, raised_by};

use super::run::{LOG, Subject};
use crate::failure::{Failure, FailureKind};

/// The limits of one of the owner's runs, and what they would be without some of those who set them.
pub(super) struct SetBy {
    /// By the configuration alone, or what holds where that says nothing.
    owner: RunLimits,
    /// With what the package asks for.
    package: RunLimits,
    /// With what the command line says as well: those of the run.
    command: RunLimits,
}

impl SetBy {
    /// Lowers the limits of what is run to those of the command line, and notes who set which.
    ///
    /// # Errors
    /// When there is no such limit, or a text is no amount of its unit.
    pub(super) fn lower(
        subject: &mut Subject,
        command: &[(String, String)],
        owner: &Limits,
    ) -> Result<Self, Failure> {
        let mut asked = Limits::default();
        for (key, text) in command {
            asked
                .set(key, text)
                .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
        }
        let package = RunLimits::of(&subject.limits, owner);
        subject.limits = subject.limits.capped_by(&asked);
        Ok(Self {
            owner: RunLimits::of(&Limits::default(), owner),
            package,
            command: RunLimits::of(&subject.limits, owner),
        })
    }

    /// The same failure, which says of a limit who set it.
    pub(super) fn told(&self, failure: Failure) -> Failure {
        // What the guest printed stays as it is.
        let (told, log) = match failure.message.find(LOG) {
            Some(place) => failure.message.split_at(place),
            None => (failure.message.as_str(), ""),
        };
        let mut told = told.to_owned();
        for key in Limits::keys() {
            if let Some(who) = self.who(key) {
                told = told.replace(&raised_by(key), &who);
            }
        }
        told.push_str(log);
        Failure::new(failure.kind, told)
    }

    /// Who set a limit, if it was not the package.
    fn who(&self, key: &str) -> Option<String> {
        let all = [&self.owner, &self.package, &self.command];
        let [owner, package, command] = all.map(|limits| figure(limits, key));
        if command != package {
            let option = match key {
                "output" => "max-output",
                key => key,
            };
            return Some(format!("`--{option}` on the command line"));
        }
        (package == owner).then(|| format!("`limits.{key}` in config.toml"))
    }
}

/// A limit by its key.
fn figure(limits: &RunLimits, key: &str) -> Option<u128> {
    Some(match key {
        "memory" => limits.memory.into(),
        "cpu-time" => limits.cpu.as_millis(),
        "time" => limits.wall.as_millis(),
        "handles" => limits.handles.into(),
        "call-bytes" => limits.call_bytes.into(),
        "device-memory" => limits.device_memory.into(),
        "device-work" => limits.device_work.into(),
        "output" => limits.output.into(),
        "storage" => limits.storage.into(),
        "log" => limits.log.into(),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use skep_registry::Grants;
    use skep_sandbox::RunError;

    use super::*;

    /// What is said of a run that ran out of memory, by what its package, the command line and the owner say of it.
    fn told(package: Option<u64>, command: Option<&str>, owner: Option<u64>) -> String {
        let limits = |memory| Limits {
            memory,
            ..Limits::default()
        };
        let mut subject = Subject {
            component: PathBuf::new(),
            signed: None,
            grants: Grants::default(),
            limits: limits(package),
            adapter: None,
            known_as: None,
            held: Vec::new(),
        };
        let command = command.map(|text| ("memory".to_owned(), text.to_owned()));
        let command: Vec<_> = command.into_iter().collect();
        let set_by = SetBy::lower(&mut subject, &command, &limits(owner)).unwrap();
        let error = RunError::Memory { limit: 1, asked: 2 };
        let mut failure = Failure::of(FailureKind::Limit, &error);
        failure.message.push_str(LOG);
        failure.message.push_str(&raised_by("memory"));
        let told = set_by.told(failure);
        assert_eq!(told.kind, FailureKind::Limit);
        // What the guest printed is its own.
        let (told, log) = told.message.split_once(LOG).unwrap();
        assert_eq!(log, raised_by("memory"));
        let (_, who) = told.split_once('(').unwrap();
        who.trim_end_matches(')').to_owned()
    }

    #[test]
    fn a_limit_is_named_by_who_set_it() {
        const MEBIBYTE: u64 = 1 << 20;
        let small = Some(MEBIBYTE);
        let large = Some(64 * MEBIBYTE);
        let by_command = "`--memory` on the command line";
        let by_package = raised_by("memory");
        let by_owner = "`limits.memory` in config.toml";
        for (package, command, owner, who) in [
            (large, Some("2 MiB"), None, by_command),
            (None, Some("2 MiB"), large, by_command),
            // More than the package asks for, or the owner allows, is not what was given.
            (small, Some("2 MiB"), None, &*by_package),
            (large, Some("2 MiB"), small, by_owner),
            (small, None, large, &*by_package),
            (large, None, small, by_owner),
            (None, None, None, by_owner),
        ] {
            assert_eq!(
                told(package, command, owner),
                who,
                "{package:?} {command:?} {owner:?}"
            );
        }
    }

    #[test]
    fn every_limit_is_found_by_its_key() {
        for key in Limits::keys() {
            assert!(figure(&RunLimits::default(), key).is_some(), "{key}");
        }
    }
}
