//! Where what the engine has to say waits until whoever asked takes it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::scheduler::Event;

/// What one of a call's requests was told.
#[derive(Debug)]
pub struct Mail {
    /// Which of the call's requests.
    pub request: usize,
    pub event: Event,
    /// Tokens of its prompt that had been computed before.
    pub cached_tokens: usize,
}

#[derive(Debug, Default)]
struct State {
    mail: VecDeque<Mail>,
    /// Requests that are not over.
    open: usize,
    waker: Option<Waker>,
}

/// The mail of one call. The engine never waits for it to be taken: what a call may be told is
/// bounded by what it asked for.
#[derive(Debug)]
pub struct Mailbox {
    state: Mutex<State>,
    news: Condvar,
}

impl Mailbox {
    /// The mailbox of a call with so many requests.
    pub fn new(requests: usize) -> Self {
        Self {
            state: Mutex::new(State {
                open: requests,
                ..State::default()
            }),
            news: Condvar::new(),
        }
    }

    /// Puts mail in. `over` says that the request is told nothing more.
    pub fn put(&self, mail: Mail, over: bool) {
        let mut state = self.state();
        state.mail.push_back(mail);
        state.open -= usize::from(over).min(state.open);
        let waker = state.waker.take();
        drop(state);
        self.news.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The mail that is there; `None` when there is none and will be none. Waits for some.
    pub fn take(&self) -> Option<VecDeque<Mail>> {
        let mut state = self.state();
        while state.mail.is_empty() && state.open > 0 {
            state = self
                .news
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let mail = std::mem::take(&mut state.mail);
        (!mail.is_empty()).then_some(mail)
    }

    /// As [`Mailbox::take`], without waiting: wakes the context's task when there is some.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Option<VecDeque<Mail>>> {
        let mut state = self.state();
        if state.mail.is_empty() && state.open > 0 {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mail = std::mem::take(&mut state.mail);
        Poll::Ready((!mail.is_empty()).then_some(mail))
    }

    /// Whether nothing more will be put in.
    pub fn is_over(&self) -> bool {
        self.state().open == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
