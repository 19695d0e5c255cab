//! From what wasmtime says of a guest's end to what the person who started it is told.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::bindings::task::skep::types::types::Error;
use crate::error::{Quota, QuotaExcess, RunError};
use crate::interfaces::reported;
use crate::limits::RunLimits;
use crate::state::{State, Stop};

/// The longest text of a guest's that is passed on.
const TEXT: usize = 2_000;

/// Explains an error that a call into the guest, or its instantiation, came back with.
pub(crate) fn trap(error: &wasmtime::Error, state: &State) -> RunError {
    match error.downcast_ref::<Stop>() {
        Some(Stop::CpuTime) => {
            return RunError::CpuTime {
                limit: state.limits.cpu,
            };
        }
        Some(Stop::CallCpuTime { limit }) => {
            return RunError::CallCpuTime { limit: *limit };
        }
        Some(Stop::Cancelled) => return RunError::Cancelled,
        None => {}
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return RunError::Guest(format!(
            "it ended itself with the exit code {} before its work was done",
            exit.0
        ));
    }
    let handles = || {
        let limit = u64::from(state.limits.handles);
        RunError::Quota(QuotaExcess {
            quota: Quota::Handles,
            limit,
            asked: limit + 1,
        })
    };
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) {
        return handles();
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return RunError::PoolEmpty;
    }
    // Limits that wasmtime keeps itself and has no type for.
    let text = format!("{error:#}");
    if text.contains("store handle limit exceeded") {
        return handles();
    }
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        let limit = state.limits.call_bytes;
        return RunError::Quota(QuotaExcess {
            quota: Quota::CallBytes,
            limit,
            asked: limit.saturating_add(1),
        });
    }
    if text.contains("resource limit exceeded") {
        return RunError::Instances {
            limit: RunLimits::INSTANCES as u64,
        };
    }
    let trap = error.downcast_ref::<Trap>();
    // A program that is refused memory, or anything that it cannot do without, gives up, which
    // is compiled to `unreachable`; and one that does not fit is refused before it begins.
    let gave_up = matches!(trap, None | Some(Trap::UnreachableCodeReached));
    if gave_up {
        if let Some(asked) = state.memory.refused {
            return RunError::Memory {
                limit: state.limits.memory,
                asked,
            };
        }
        if let Some(asked) = state.memory.refused_elements {
            return RunError::Tables {
                limit: RunLimits::TABLE_ELEMENTS,
                asked,
            };
        }
        if let Some(excess) = state.refused {
            return RunError::Quota(excess);
        }
    }
    let frames = error
        .downcast_ref::<WasmBacktrace>()
        .map(|backtrace| {
            backtrace
                .frames()
                .iter()
                .map(|frame| {
                    frame.func_name().map_or_else(
                        || format!("function {}", frame.func_index()),
                        |name| clip(rustc_name(name)),
                    )
                })
                .collect()
        })
        .unwrap_or_default();
    RunError::Trapped {
        message: match trap {
            Some(trap) => trap.to_string(),
            None => clip(&error.root_cause().to_string()),
        },
        backtrace: frames,
    }
}

/// Explains an error that the guest returned.
pub(crate) fn returned(error: Error) -> RunError {
    match error {
        Error::OverQuota(excess) => RunError::Quota(reported(excess)),
        Error::Denied(grant) => RunError::Guest(format!(
            "it was denied what it needs; grant it in skep.toml: {}",
            clip(&grant)
        )),
        Error::NotFound(what) => RunError::Guest(format!("not found: {}", clip(&what))),
        Error::Invalid(reason) => RunError::Guest(clip(&reason)),
        Error::Busy => RunError::Guest("the node was busy".to_owned()),
        Error::Failed(reason) => RunError::Guest(clip(&reason)),
    }
}

/// The name without the hash that rustc puts behind it.
fn rustc_name(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front,
        _ => name,
    }
}

/// A guest's text, cut to a bearable length.
pub(crate) fn clip(text: &str) -> String {
    if text.len() <= TEXT {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(TEXT / 4).collect();
    cut.push_str(" … [cut]");
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(clip("short"), "short");
        let cut = clip(&"é".repeat(10_000));
        assert!(cut.len() < TEXT && cut.ends_with("é … [cut]"));
    }

    #[test]
    fn names_lose_their_hash() {
        assert_eq!(rustc_name("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(rustc_name("a::hello"), "a::hello");
    }
}
