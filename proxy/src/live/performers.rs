//! Whoever performs checkpoints: a toolstack on the notify socket, a command, a listener in this
//! process (the VMM), or several of them. All are asked; the first that says "done" ends it for all.

use super::conversation::{self, Conversation};
use super::hook::{self, Hook, HookError, Outcome};
use super::spec::Guest;
use crate::engine::{Nanos, Trigger};
use crate::socket::OpenError;
use crate::socket::notify::Message;
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::sync::mpsc::SyncSender;
use thiserror::Error;

/// A request for a checkpoint, for a listener in this process. It stands until the guest's
/// [`Handle`](super::Handle) says `checkpoint_done` or `checkpoint_failed`; meanwhile no other comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The guest's name.
    pub guest: String,
    /// Why, and in which epoch.
    pub trigger: Trigger,
}

/// What a performer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A checkpoint is complete.
    Done,
    /// A checkpoint came to nothing.
    Failed,
    /// The primary is gone.
    Failover,
}

/// How long a command that failed is left alone: the first time, and at most.
const PAUSE: [Nanos; 2] = [Nanos::from_millis(1000), Nanos::from_millis(30_000)];

/// A checkpoint command, and what it is needed for.
#[derive(Debug)]
struct Commanded {
    hook: Hook,
    vifs: String,
    /// A request that has not been passed on.
    due: Option<hook::Trigger>,
    /// Not before this.
    not_before: Nanos,
    pause: Nanos,
}

impl Commanded {
    /// Runs the command if it is needed and may run.
    fn advance(&mut self, now: Nanos) -> Option<Said> {
        if self.hook.is_busy() || now < self.not_before {
            return None;
        }
        let trigger = self.due.take()?;
        match self.hook.run(&trigger) {
            Ok(()) | Err(HookError::Busy) => None,
            Err(error) => {
                tracing::error!("{}: {error}", trigger.guest);
                self.back_off(now);
                Some(Said::Failed)
            }
        }
    }

    fn finished(&mut self, now: Nanos) -> Option<Said> {
        match self.hook.read()? {
            Outcome::Complete => {
                self.pause = PAUSE[0];
                Some(Said::Done)
            }
            Outcome::Failed(failure) => {
                tracing::warn!(
                    "{failure}; it is run again in {} ms if it is needed",
                    self.pause.0 / 1_000_000
                );
                self.back_off(now);
                Some(Said::Failed)
            }
        }
    }

    fn back_off(&mut self, now: Nanos) {
        self.not_before = now.plus(self.pause);
        self.pause = Nanos(self.pause.0.saturating_mul(2)).min(PAUSE[1]);
    }
}

/// All of a guest's performers.
#[derive(Debug)]
pub(super) struct Performers {
    conversation: Option<Conversation>,
    command: Option<Commanded>,
    listener: Option<SyncSender<Request>>,
}

/// Performers that cannot be reached.
#[derive(Debug, Error)]
pub enum PerformersError {
    /// The notify socket cannot be opened.
    #[error("notify: {0}")]
    Notify(#[from] OpenError),
    /// The process that runs the command cannot be started.
    #[error("cannot start a process for the checkpoint command: {0}")]
    Command(#[from] io::Error),
}

impl Performers {
    /// Opens the socket and starts the process that runs the command, with all privileges that
    /// there are: both before they are given up.
    pub(super) fn open(
        guest: &Guest,
        listener: Option<SyncSender<Request>>,
    ) -> Result<Self, PerformersError> {
        let conversation = guest.checkpoints.notify.as_ref().map(Conversation::open).transpose()?;
        let start = |command: &String| Hook::start(command, guest.checkpoints.command_timeout);
        let hook = guest.checkpoints.command.as_ref().map(start).transpose()?;
        let vifs: Vec<&str> = guest.nics.iter().map(|nic| nic.vif.as_str()).collect();
        let command = hook.map(|hook| Commanded {
            hook,
            vifs: vifs.join(" "),
            due: None,
            not_before: Nanos::default(),
            pause: PAUSE[0],
        });
        Ok(Self { conversation, command, listener })
    }

    /// What they do now, in words.
    pub(super) fn describe(&self) -> Option<String> {
        self.conversation.as_ref().map(Conversation::describe)
    }

    /// Who would perform a checkpoint now; none if nobody is there.
    pub(super) fn present(&self) -> Option<String> {
        let notify = self.conversation.as_ref().filter(|conversation| conversation.is_up());
        let names = [
            notify.map(|_| "notify peer"),
            self.command.as_ref().map(|_| "command"),
            self.listener.as_ref().map(|_| "VMM"),
        ];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Whether nobody could ever be asked.
    pub(super) fn is_nobody(&self) -> bool {
        self.conversation.is_none() && self.command.is_none() && self.listener.is_none()
    }

    /// Asks for a checkpoint.
    pub(super) fn ask(&mut self, guest: &str, trigger: Trigger) {
        if let Some(conversation) = &mut self.conversation {
            conversation.request();
        }
        if let Some(command) = &mut self.command {
            command.due = Some(hook::Trigger {
                guest: guest.to_owned(),
                cause: trigger.cause.label().to_owned(),
                epoch: trigger.epoch.0,
                flow: trigger.flow.map(|flow| flow.to_string()).unwrap_or_default(),
                vifs: command.vifs.clone(),
            });
        }
        if let Some(listener) = &self.listener {
            // One that does not listen now has a request standing already.
            let _ = listener.try_send(Request { guest: guest.to_owned(), trigger });
        }
    }

    /// None is needed any more.
    pub(super) fn settled(&mut self) {
        if let Some(conversation) = &mut self.conversation {
            conversation.settled();
        }
        if let Some(command) = &mut self.command {
            command.due = None;
        }
    }

    /// What to wait for.
    pub(super) fn interests<'a>(&'a mut self, now: Nanos, fds: &mut Vec<PollFd<'a>>) -> Watched {
        let Self { conversation, command, .. } = self;
        let hook = command.as_ref().filter(|command| command.hook.is_busy());
        let hook = hook.and_then(|command| command.hook.fd()).map(|fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            fds.len() - 1
        });
        let conversation = conversation.as_mut().map(|conversation| conversation.interests(now, fds));
        Watched { hook, conversation: conversation.unwrap_or_default() }
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn deadline(&self, now: Nanos) -> Option<Nanos> {
        let conversation = self.conversation.as_ref().and_then(|conversation| conversation.deadline(now));
        let command =
            self.command.as_ref().filter(|command| command.due.is_some() && !command.hook.is_busy());
        conversation.into_iter().chain(command.map(|command| command.not_before)).min()
    }

    /// What was said, in order. Nothing, and quickly, while nobody moves.
    pub(super) fn turn(&mut self, ready: Readiness, now: Nanos) -> Vec<Said> {
        let moved = ready.hook || ready.conversation.is_any();
        if !moved && self.deadline(now).is_none_or(|at| at > now) {
            return Vec::new();
        }
        let messages = self.conversation.as_mut().map(|one| one.turn(ready.conversation, now));
        let said = messages.into_iter().flatten().filter_map(|message| match message {
            Message::Checkpoint => Some(Said::Done),
            Message::Failover => Some(Said::Failover),
            Message::Hello | Message::Unknown => None,
        });
        let mut said: Vec<Said> = said.collect();
        if let Some(command) = &mut self.command {
            if ready.hook {
                said.extend(command.finished(now));
            }
            said.extend(command.advance(now));
        }
        said
    }
}

/// Where the performers' descriptors are in a list for `poll`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    hook: Option<usize>,
    conversation: conversation::Watched,
}

/// What `poll` said of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    hook: bool,
    conversation: conversation::Readiness,
}

impl Watched {
    pub(super) fn readiness(self, fds: &[PollFd<'_>]) -> Readiness {
        let hook = self.hook.and_then(|place| fds.get(place)).is_some_and(|fd| !fd.revents().is_empty());
        Readiness { hook, conversation: self.conversation.readiness(fds) }
    }
}
