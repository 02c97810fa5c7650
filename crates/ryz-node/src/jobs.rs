//! The threads that work for one Node.js environment (the main thread, or a worker), and their end with it.
//!
//! When an environment goes away, by `worker.terminate()` for example, no thread may go on in its name: a clean-up hook
//! cancels and joins them all.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use napi::{Env, Error, Result};

use crate::answer::Failure;

/// Something that ends with its environment.
pub trait Ending {
    /// Asks it to stop, and does not wait.
    fn cancel(&self) {}
    /// Stops and waits until it has stopped. Called on the environment's own thread.
    fn end(&mut self);
    /// Whether it has stopped by itself, so that it need not be kept.
    fn is_over(&self) -> bool;
}

#[derive(Default)]
struct Environment {
    hooked: bool,
    helper: Option<Sender<Task>>,
    desks: Option<Desks>,
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
        // Without a sender the helper threads end.
        environment.helper = None;
        environment.desks = None;
        std::mem::take(&mut environment.live)
    });
    // All of them at once: tasks that wait for one another end together.
    live.iter().for_each(|ending| ending.cancel());
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
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn end(&mut self) {
        self.cancel();
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

type Task = Box<dyn FnOnce(&AtomicBool) + Send>;

/// Runs `work` soon, after what came before it, on the environment's one helper thread. The flag is set when it should
/// stop early.
pub fn soon(env: &Env, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<()> {
    let task: Task = Box::new(work);
    let refused = ENVIRONMENT.with_borrow(|environment| match &environment.helper {
        Some(helper) => helper.send(task).err().map(|error| error.0),
        None => Some(task),
    });
    let Some(task) = refused else { return Ok(()) };
    let (helper, tasks) = channel::<Task>();
    spawn(env, "ryz-helper", move |ended| {
        tasks.into_iter().for_each(|task| task(ended));
    })?;
    // The helper was started just now: it takes the first task.
    drop(helper.send(task));
    ENVIRONMENT.with_borrow_mut(|environment| environment.helper = Some(helper));
    Ok(())
}

/// Long tasks that run at once; the others wait for one of them.
const MOST_LONG: usize = 4;

/// The threads that take long tasks in turn.
struct Desks {
    sender: Sender<Task>,
    tasks: Arc<Mutex<Receiver<Task>>>,
    threads: usize,
}

/// Runs `work` beside others, so that short tasks do not wait for it. The flag is set when it should stop early.
pub fn beside(env: &Env, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<()> {
    let tasks = ENVIRONMENT.with_borrow_mut(|environment| {
        let desks = environment.desks.get_or_insert_with(|| {
            let (sender, tasks) = channel();
            let tasks = Arc::new(Mutex::new(tasks));
            Desks {
                sender,
                tasks,
                threads: 0,
            }
        });
        // The receiver lives as long as the desks do.
        drop(desks.sender.send(Box::new(work)));
        (desks.threads < MOST_LONG).then(|| {
            desks.threads += 1;
            Arc::clone(&desks.tasks)
        })
    });
    let Some(tasks) = tasks else { return Ok(()) };
    let started = spawn(env, "ryz-beside", move |ended| {
        loop {
            let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = next else { break };
            task(ended);
        }
    });
    let Err(error) = started else { return Ok(()) };
    ENVIRONMENT.with_borrow_mut(|environment| match &mut environment.desks {
        Some(desks) if desks.threads > 1 => {
            // Another thread takes the task.
            desks.threads -= 1;
            Ok(())
        }
        _ => {
            environment.desks = None;
            Err(error)
        }
    })
}
