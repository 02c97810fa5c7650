//! The threads that work for one Node.js environment (the main thread, or a worker), and their end with it.
//!
//! When an environment goes away, by `worker.terminate()` for example, no thread may go on in its name: a clean-up hook
//! cancels and joins them all.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use napi::{Env, Error, Result};

use crate::answer::Failure;

/// Something that ends with its environment.
pub trait Ending {
    /// Stops and waits until it has stopped. Called on the environment's own thread.
    fn end(&mut self);
    /// Whether it has stopped by itself, so that it need not be kept.
    fn is_over(&self) -> bool;
}

#[derive(Default)]
struct Environment {
    hooked: bool,
    helper: Option<Sender<Task>>,
    live: Vec<Box<dyn Ending>>,
}

thread_local! {
    // Every environment runs on a thread of its own.
    static ENVIRONMENT: RefCell<Environment> = RefCell::default();
}

/// Keeps `ending` until it is over, and ends it with the environment.
pub fn keep(env: &Env, ending: Box<dyn Ending>) -> Result<()> {
    let hooked = ENVIRONMENT.with_borrow_mut(|environment| {
        environment.live.retain(|other| !other.is_over());
        environment.live.push(ending);
        std::mem::replace(&mut environment.hooked, true)
    });
    if !hooked {
        env.add_env_cleanup_hook((), |()| end_all())?;
    }
    Ok(())
}

fn end_all() {
    let live = ENVIRONMENT.with_borrow_mut(|environment| {
        // Without a sender the helper thread ends.
        environment.helper = None;
        std::mem::take(&mut environment.live)
    });
    for mut ending in live {
        ending.end();
    }
}

/// Bytes of a thread's stack, whatever RUST_MIN_STACK says.
const STACK: usize = 2 << 20;

/// A thread that can be asked to stop.
struct Job {
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ending for Job {
    fn end(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A job catches its own panics and has answered; there is nobody left to tell.
            drop(thread.join());
        }
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Runs `work` on a thread of its own. The flag is set when it should stop early.
pub fn spawn(
    env: &Env,
    name: &str,
    work: impl FnOnce(&AtomicBool) + Send + 'static,
) -> Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancelled);
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || work(&flag))
        .map_err(|error| no_thread(name, &error))?;
    keep(
        env,
        Box::new(Job {
            cancelled: Arc::clone(&cancelled),
            thread: Some(thread),
        }),
    )?;
    Ok(cancelled)
}

/// What a call throws when the system gives no thread.
fn no_thread(name: &str, error: &std::io::Error) -> Error {
    let message = format!("the system gives no thread for {name}: {error}");
    Failure::plain("OUT_OF_MEMORY", message).thrown()
}

/// Runs `work` on a thread of its own, from where there is no environment at hand, such as a finaliser.
pub fn detach(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work);
    // Without a thread the work is dropped, and what it owns with it.
    let Ok(thread) = thread else { return };
    let job = Job {
        cancelled: Arc::default(),
        thread: Some(thread),
    };
    // A finaliser may run when the environment has ended: then nobody is left to wait.
    let _ = ENVIRONMENT.try_with(|environment| environment.borrow_mut().live.push(Box::new(job)));
}

type Task = Box<dyn FnOnce() + Send>;

/// Runs `work` soon, after what came before it, on the environment's one helper thread.
pub fn soon(env: &Env, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let task: Task = Box::new(work);
    let refused = ENVIRONMENT.with_borrow(|environment| match &environment.helper {
        Some(helper) => helper.send(task).err().map(|error| error.0),
        None => Some(task),
    });
    let Some(task) = refused else { return Ok(()) };
    let (helper, tasks) = channel::<Task>();
    spawn(env, "ryz-helper", move |_| {
        tasks.into_iter().for_each(|task| task())
    })?;
    // The helper was started just now: it takes the first task.
    drop(helper.send(task));
    ENVIRONMENT.with_borrow_mut(|environment| environment.helper = Some(helper));
    Ok(())
}
