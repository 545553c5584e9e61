//! How fast it was.

use std::{
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use longshore::{Backend, Dispatcher};

use crate::{
    run::PATIENCE,
    text::{grouped, mebibytes, short},
    workload::Facts,
};

/// Posts to an idle port, one at a time.
const QUIET_POSTS: usize = 500;
/// Between two of them, so that the dispatching thread is asleep when the next one comes.
const PAUSE: Duration = Duration::from_micros(200);

pub(crate) struct Figures {
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) latency: Vec<Latency>,
}

pub(crate) struct Throughput {
    pub(crate) what: &'static str,
    pub(crate) amount: String,
    pub(crate) time: String,
    pub(crate) rate: String,
}

pub(crate) struct Latency {
    pub(crate) what: &'static str,
    pub(crate) samples: String,
    pub(crate) median: String,
    pub(crate) p99: String,
}

/// Collects the figures of the main job, and takes one more on an idle port.
pub(crate) fn measure(facts: &Facts) -> io::Result<Figures> {
    let (posts, copy, echo) = (&facts.posts, &facts.copy, &facts.echo);
    let throughput = vec![
        throughput(
            "callbacks posted and dispatched",
            posts.calls as f64,
            posts.took,
            |amount| format!("{} posts", grouped(amount as u64)),
        ),
        throughput(
            "file read and written",
            mebibytes(copy.copied),
            copy.took,
            |amount| format!("{amount:.1} MiB"),
        ),
        throughput(
            "messages echoed",
            echo.messages as f64,
            echo.took,
            |amount| format!("{} messages", grouped(amount as u64)),
        ),
    ];
    let quiet = quiet_posts(facts.backend)?;
    let latency = vec![
        latency("post to dispatch, in the flood of posts", &posts.latencies),
        latency("post to dispatch, idle port", &quiet),
        latency("echo round trip, all at once", &echo.round_trips),
    ];
    Ok(Figures {
        throughput,
        latency,
    })
}

/// `time` is there if all of it was done.
fn throughput(
    what: &'static str,
    amount: f64,
    time: Option<Duration>,
    unit: impl Fn(f64) -> String,
) -> Throughput {
    let rate = |time: Duration| unit(amount / time.as_secs_f64().max(1e-9)) + "/s";
    Throughput {
        what,
        amount: unit(amount),
        time: time.map_or("unfinished".into(), short),
        rate: time.map_or("-".into(), rate),
    }
}

fn latency(what: &'static str, samples: &[Duration]) -> Latency {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |part: f64| {
        let index = (sorted.len() as f64 * part) as usize;
        sorted.get(index).copied().map_or("-".into(), short)
    };
    Latency {
        what,
        samples: grouped(samples.len() as u64),
        median: at(0.5),
        p99: at(0.99),
    }
}

/// From the post to the call, with one thread asleep in `dispatch`.
fn quiet_posts(backend: Backend) -> io::Result<Vec<Duration>> {
    let port = Dispatcher::builder().backend(backend).build()?;
    let (sender, receiver) = mpsc::channel();
    let work = port.work_guard();
    let dispatching = thread::spawn({
        let port = port.clone();
        move || port.run()
    });
    let mut latencies = Vec::with_capacity(QUIET_POSTS);
    for _ in 0..QUIET_POSTS {
        thread::sleep(PAUSE);
        let (sender, posted) = (sender.clone(), Instant::now());
        port.post_fn(move || {
            // The receiver has gone if it has lost its patience.
            let _ = sender.send(posted.elapsed());
        })?;
        let latency = receiver.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        latencies.push(latency);
    }
    drop(work);
    dispatching
        .join()
        .map_err(|_| io::Error::other("the dispatching thread panicked"))??;
    port.close()?;
    Ok(latencies)
}
