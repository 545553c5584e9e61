//! Post and dispatch on one thread, beside a bare queue.
//!
//! criterion measures one side after the other, minutes apart on a busy machine; the ratio that
//! counts is therefore measured once more, turn by turn, and printed at the end.

use std::{env, hint::black_box};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, measurement::WallTime,
};
use longshore_bench::{BURSTS, Bare, Longshore, Queue, Ratios};

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, queue: &impl Queue) {
    for burst in BURSTS {
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(BenchmarkId::new(name, burst), |bencher| {
            bencher.iter(|| queue.run(black_box(burst)).expect("the port is open"));
        });
    }
}

fn post_dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("post_dispatch");
    bench(&mut group, "bare", &Bare::default());
    let longshore = Longshore::new().expect("a port can be opened");
    bench(&mut group, "longshore", &longshore);
    group.finish();
}

criterion_group!(benches, post_dispatch);

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
