//! A request from the moment it is accepted to its end: on its way to the engine thread, and there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::error::EngineError;
use crate::eviction::Eviction;
use crate::generation::{Generation, GenerationParts};
use crate::guide::Guide;
use crate::jobs::Job;
use crate::request::{Control, Event, FinishReason};
use crate::state::EngineState;

/// A validated request on its way to the engine thread. It holds a place in the queue; one that is dropped on the way,
/// because the engine was disposed, says so to its consumer.
pub(crate) struct Submission {
    pub control: Arc<Control>,
    pub tokens: Vec<u32>,
    pub work: Option<Work>,
    pub terms: SchedulingOptions,
    shared: Arc<EngineState>,
}

/// How a request is scheduled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchedulingOptions {
    /// What it forgets.
    pub eviction: Eviction,
    /// Who has more goes first.
    pub priority: i32,
    /// Tokens that may be delivered at once; jobs deliver none.
    pub credits: u32,
}

/// What a request wants.
pub(crate) enum Work {
    Generate(Box<GenerationParts>),
    Job(Job),
}

impl Submission {
    pub fn new(
        control: Arc<Control>,
        tokens: Vec<u32>,
        work: Work,
        terms: SchedulingOptions,
        shared: Arc<EngineState>,
    ) -> Self {
        Self {
            control,
            tokens,
            work: Some(work),
            terms,
            shared,
        }
    }

    /// Keeps a generation to a constraint.
    pub fn guide(&mut self, guide: Guide) {
        if let Some(Work::Generate(parts)) = &mut self.work {
            parts.guide = Some(guide);
        }
    }

    /// Counts the characters of its text that the vocabulary cannot say.
    pub fn unknown(&mut self, characters: usize) {
        if let Some(Work::Generate(parts)) = &mut self.work {
            parts.unknown_characters = characters;
        }
    }

    /// Whether it is a generation, which the engine's thread ends as aborted; a job is refused where it is.
    pub fn is_generation(&self) -> bool {
        matches!(self.work, Some(Work::Generate(_)))
    }

    /// Refuses the request.
    pub fn fail(mut self, error: EngineError) {
        if let Some(work) = self.work.take() {
            self.shared.dequeue();
            work.fail(error);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.shared.dequeue();
            work.fail(EngineError::Disposed);
        }
    }
}

impl Work {
    fn fail(self, error: EngineError) {
        match self {
            Self::Generate(mut parts) => parts.sink.deliver(Event::Failed(error)),
            Self::Job(job) => job.fail(error),
        }
    }
}

/// What the engine thread works on for a request.
pub(crate) enum Task {
    Generate(Box<Generation>),
    Job(Job),
}

/// A request that has ended, and whose consumer is to be told.
pub(crate) struct End {
    task: Task,
    /// Of a job that is done: any reason.
    how: Result<FinishReason, EngineError>,
}

impl End {
    pub fn tell(self) {
        match (self.task, self.how) {
            (Task::Generate(mut generation), Ok(reason)) => generation.finish(reason),
            (Task::Generate(mut generation), Err(error)) => generation.fail(error),
            (Task::Job(job), Ok(_)) => job.finish(),
            (Task::Job(job), Err(error)) => job.fail(error),
        }
    }
}

/// A request of the engine thread.
pub(crate) struct Entry {
    pub control: Arc<Control>,
    pub task: Task,
    /// It has had its first step, and so left the queue.
    pub started: bool,
}

impl Entry {
    /// Leaves the queue at its first step.
    pub fn start(&mut self, now: Instant, shared: &EngineState) {
        self.leave(shared);
        if let Task::Generate(generation) = &mut self.task {
            generation.start(now);
        }
    }

    /// Its consumer has taken no more than was granted.
    pub fn is_unread(&self) -> bool {
        matches!(self.task, Task::Generate(_)) && self.control.credits.load(Ordering::SeqCst) <= 0
    }

    fn leave(&mut self, shared: &EngineState) {
        if !self.started {
            self.started = true;
            shared.dequeue();
        }
    }

    pub fn end(mut self, how: Result<FinishReason, EngineError>, shared: &EngineState) -> End {
        self.leave(shared);
        End {
            task: self.task,
            how,
        }
    }

    /// A generation ends as aborted; a job has no other way than an error.
    pub fn abort(self, shared: &EngineState) -> End {
        let how = match self.task {
            Task::Generate(_) => Ok(FinishReason::Abort),
            Task::Job(_) => Err(EngineError::Aborted),
        };
        self.end(how, shared)
    }
}
