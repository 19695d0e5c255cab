//! What the node is running at this moment, for its owner to see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::requests::RunningLine;

/// The runs that are not over, oldest first.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<Runs>>);

#[derive(Default)]
struct Runs {
    next: u64,
    now: BTreeMap<u64, (String, Instant)>,
}

impl Running {
    /// Lists a run until what this returns is dropped.
    pub fn enter(&self, package: &str) -> Listed {
        let mut runs = self.lock();
        let number = runs.next;
        runs.next += 1;
        runs.now
            .insert(number, (package.to_owned(), Instant::now()));
        Listed {
            running: self.clone(),
            number,
        }
    }

    /// What is running.
    pub fn lines(&self) -> Vec<RunningLine> {
        let runs = self.lock();
        let lines = runs.now.values().map(|(package, since)| RunningLine {
            package: package.clone(),
            seconds: since.elapsed().as_secs_f64(),
        });
        lines.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that is listed.
pub struct Listed {
    running: Running,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().now.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_listed_until_it_is_over() {
        let running = Running::default();
        let packages = |running: &Running| -> Vec<String> {
            running
                .lines()
                .into_iter()
                .map(|line| line.package)
                .collect()
        };
        let first = running.enter("a");
        let second = running.enter("b");
        assert_eq!(packages(&running), ["a", "b"]);
        drop(first);
        assert_eq!(packages(&running), ["b"]);
        let third = running.enter("a");
        assert_eq!(packages(&running), ["b", "a"]);
        drop((second, third));
        assert!(packages(&running).is_empty());
    }
}
