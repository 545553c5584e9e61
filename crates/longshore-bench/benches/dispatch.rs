//! Post and dispatch on one thread, one producer and its dispatchers, and a wake-up there and back,
//! each beside its bare reference.
//!
//! criterion measures one side after the other, minutes apart on a busy machine; the ratios that
//! count are therefore measured once more, turn by turn, and printed at the end.

use std::{env, hint::black_box};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, measurement::WallTime,
};
use longshore::Dispatcher;
use longshore_bench::{
    Ratios,
    burst::{self, BURSTS, Queue},
    handoff::{self, DISPATCHERS, Handoff, Sleepy},
    round_trip::{Bell, Futex, RoundTrip},
};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Callbacks in one measured handoff.
const HANDED_OVER: usize = 1024;

fn port() -> Dispatcher {
    Dispatcher::new().expect("a port can be opened")
}

fn bench_burst(group: &mut Group<'_>, name: &str, queue: &impl Queue) {
    for burst in BURSTS {
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(BenchmarkId::new(name, burst), |bencher| {
            bencher.iter(|| queue.run(black_box(burst)).expect("the port is open"));
        });
    }
}

fn post_dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("post_dispatch");
    bench_burst(&mut group, "bare", &burst::Bare::default());
    let longshore = burst::Longshore::new().expect("a port can be opened");
    bench_burst(&mut group, "longshore", &longshore);
    group.finish();
}

fn bench_handoff<Q: Sleepy>(group: &mut Group<'_>, name: &str, open: impl Fn() -> Q) {
    group.throughput(Throughput::Elements(HANDED_OVER as u64));
    for dispatchers in DISPATCHERS {
        let handoff = Handoff::new(open(), dispatchers);
        group.bench_function(BenchmarkId::new(name, dispatchers), |bencher| {
            bencher.iter(|| handoff.run(HANDED_OVER).expect("the port is open"));
        });
    }
}

fn one_producer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_producer");
    bench_handoff(&mut group, "bare", handoff::Bare::default);
    bench_handoff(&mut group, "longshore", port);
    group.finish();
}

fn bench_round_trip<B: Bell>(group: &mut Group<'_>, name: &str, open: impl Fn() -> B) {
    let trip = RoundTrip::new(open(), open());
    group.bench_function(name, |bencher| {
        bencher.iter(|| trip.run(1).expect("the port is open"));
    });
}

fn wake_up_round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wake_up_round_trip");
    bench_round_trip(&mut group, "futex", Futex::default);
    bench_round_trip(&mut group, "longshore", port);
    group.finish();
}

criterion_group!(benches, post_dispatch, one_producer, wake_up_round_trip);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // `cargo test` and `--list` only want to know that the benches run.
    let wants = |argument: &str| env::args().any(|given| given == argument);
    if wants("--bench") && !wants("--list") && !wants("--test") {
        let ratios = Ratios::measure().expect("a port can be opened");
        println!("{ratios}");
    }
}
