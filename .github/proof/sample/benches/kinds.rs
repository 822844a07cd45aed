use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

fn kinds(c: &mut Criterion) {
    let floats = |n: u32| -> Vec<f32> { (0..n).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect() };
    let (a, b) = (floats(16_000), floats(16_000));
    c.bench_function("dot", |bench| bench.iter(|| sample::dot(black_box(&a), black_box(&b))));
    let mut x = floats(2000);
    c.bench_function("softmax", |bench| bench.iter(|| sample::softmax(black_box(&mut x))));
    let (w, v, mut y) = (floats(500 * 1024), floats(1024), vec![0.0; 500]);
    c.bench_function("gemv", |bench| bench.iter(|| sample::gemv(black_box(&w), &v, black_box(&mut y))));
    let text: Vec<u8> = (0..20_000_u32).map(|i| (i * 31 % 251) as u8).collect();
    c.bench_function("bytes", |bench| bench.iter(|| sample::bytes(black_box(&text))));
    let numbers: Vec<String> = (0..1000).map(|i| format!("{}.{:03}", i * 37 % 997, i)).collect();
    let numbers = numbers.join(",");
    c.bench_function("parse", |bench| bench.iter(|| sample::parse(black_box(&numbers))));
    let keys: Vec<u32> = (0..40_000_u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let mut scratch = Vec::new();
    c.bench_function("sort", |bench| bench.iter(|| sample::sort(black_box(&keys), &mut scratch)));
    let few = &keys[..4000];
    let mut sums = vec![0; few.len()];
    c.bench_function("scan", |bench| bench.iter(|| sample::scan(black_box(few), black_box(&mut sums))));
    c.bench_function("hash", |bench| bench.iter(|| sample::hash(black_box(&text))));
}

criterion_group!(benches, kinds);
criterion_main!(benches);
