//! Reads adapters from disk on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use skep_accounts::Account;
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

/// The same for whoever has this account.
pub fn read_for(account: &Account, options: &StoreOptions, folder: &Path) -> Loaded {
    AdapterWeights::load_while(
        folder,
        (options.base.as_ref(), options.base_name.as_str()),
        options.page_bytes,
        &|flops| account.goes_on(flops),
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
        Self::reading_by(move |folder| read(&options, folder))
    }

    fn reading_by(read: impl Fn(&Path) -> Loaded + Send + 'static) -> std::io::Result<Self> {
        let (asked, questions) = channel::<(u64, PathBuf)>();
        let (answer, answers) = channel();
        let serve = move || {
            for (number, folder) in questions {
                if answer.send((number, read(&folder))).is_err() {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far longer than a thread takes to end what waits for it.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// An error that tells when it is let go of.
    #[derive(Debug, thiserror::Error)]
    #[error("not read")]
    struct LetGo(Sender<()>);

    impl Drop for LetGo {
        fn drop(&mut self) {
            // Nobody listens any more once the test is over.
            let _ = self.0.send(());
        }
    }

    #[test]
    fn what_waits_to_be_read_when_the_store_goes_is_not_read() {
        let (began, begun) = channel();
        let (let_go, is_let_go) = channel();
        let read = move |folder: &Path| -> Loaded {
            began.send(folder.to_owned()).unwrap();
            if folder == Path::new("1") {
                // The first answer lies there as long as anybody may ask for it, and this one is
                // being read when that is over.
                let _ = is_let_go.recv_timeout(PATIENCE);
            }
            Err(AdapterError::Read {
                path: folder.to_owned(),
                source: std::io::Error::other(LetGo(let_go.clone())),
            })
        };
        let mut loads = Loads::reading_by(read).unwrap();
        for number in 0..5_u64 {
            loads.begin(number, number.to_string().into());
        }
        let mut read: Vec<PathBuf> = begun.iter().take(2).collect();
        drop(loads);
        // The thread has ended with it, and so has its end of this channel.
        read.extend(begun);
        assert_eq!(read, ["0", "1"].map(PathBuf::from));
    }
}
