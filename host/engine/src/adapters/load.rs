//! Reads adapters from disk on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use skep_decoder::{AdapterError, AdapterWeights};

use super::StoreOptions;

/// What came of reading an adapter.
pub type Loaded = Result<AdapterWeights, AdapterError>;

/// Reads the adapter in a folder, here and now.
pub fn read(options: &StoreOptions, folder: &Path) -> Loaded {
    AdapterWeights::load(
        folder,
        &options.base,
        &options.base_name,
        options.page_bytes,
    )
}

/// The thread, and what it has to do.
#[derive(Debug)]
pub struct Loads {
    /// None when the thread is to end.
    asked: Option<Sender<(u64, PathBuf)>>,
    answers: Receiver<(u64, Loaded)>,
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl Loads {
    pub fn start(options: StoreOptions) -> std::io::Result<Self> {
        let (asked, questions) = channel::<(u64, PathBuf)>();
        let (answer, answers) = channel();
        let serve = move || {
            for (number, folder) in questions {
                if answer.send((number, read(&options, &folder))).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("skep-adapters".to_owned());
        Ok(Self {
            asked: Some(asked),
            answers,
            under_way: 0,
            thread: Some(thread.spawn(serve)?),
        })
    }

    /// Begins to read the adapter of version `number`.
    pub fn begin(&mut self, number: u64, folder: PathBuf) {
        // The thread ends only after this end of the channel is gone.
        if let Some(asked) = &self.asked
            && asked.send((number, folder)).is_ok()
        {
            self.under_way += 1;
        }
    }

    /// One that has been read, if there is one.
    pub fn finished(&mut self) -> Option<(u64, Loaded)> {
        let answer = self.answers.try_recv().ok()?;
        self.under_way -= 1;
        Some(answer)
    }

    /// The next one to be read; none if none is under way.
    pub fn wait(&mut self) -> Option<(u64, Loaded)> {
        if self.under_way == 0 {
            return None;
        }
        let answer = self.answers.recv().ok()?;
        self.under_way -= 1;
        Some(answer)
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        self.asked = None;
        // What was asked for and is not begun yet is for nobody.
        self.answers = channel().1;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
