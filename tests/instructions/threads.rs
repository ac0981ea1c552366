//! Exchanges between threads.

use vitscope::backend::gpu::{jit::Source, launch::Shape};

use crate::probes::{BLOCK, Probes, file, probe};

static THREADS: Source = file!("threads.cu");

#[test]
fn threads_exchange_values() {
    probe(&THREADS, |p| {
        exchanges(p)?;
        reductions(p)?;
        handovers(p)?;
        atomics(p)?;
        shared_arrays(p)
    });
}

/// Any bits, NaN patterns among them.
fn words(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x7fc0_0000).collect()
}

fn exchanges(p: &mut Probes) -> Result<(), String> {
    let x = words(128);
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("exchanges", BLOCK, 32 * 6 * 128, &[device_x.arg()])?;
    let rows = ["broadcast", "shuffle_xor float", "shuffle_xor", "shuffle_up", "ballot", "count_bits"];
    for (row, name) in rows.into_iter().enumerate() {
        let value = |i: usize, t: usize| {
            let (warp, lane) = (t / 32 * 32, t % 32);
            match name {
                "broadcast" => x[warp + i],
                "shuffle_up" => x[if lane < i { t } else { t - i }],
                "ballot" => (0..32).fold(0, |votes, lane| votes | (x[warp + lane] >> i & 1) << lane),
                "count_bits" => (x[t] >> i).count_ones(),
                _ => x[warp + (lane ^ i)],
            }
        };
        let cases = || (0..32).flat_map(|i| (0..128).map(move |t| (i, t)));
        let found: Vec<u32> = cases().map(|(i, t)| y[(i * 6 + row) * 128 + t]).collect();
        let expected: Vec<u32> = cases().map(|(i, t)| value(i, t)).collect();
        p.same(name, "", &found, &expected);
    }
    Ok(())
}

/// Small whole numbers, negative ones among them, as f32 sums need no rounding.
fn reductions(p: &mut Probes) -> Result<(), String> {
    let x: Vec<i32> = (0..128).map(|t| t * 37 % 101 - 50).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("reductions", BLOCK, 10 * 128, &[device_x.arg()])?;
    let warp = |t: usize| &x[t / 32 * 32..][..32];
    let float = |x: i32| (x as f32).to_bits();
    let most = |of: &[i32]| of.iter().copied().max().unwrap_or(0);
    let rows: [(&str, &dyn Fn(usize) -> u32); 10] = [
        ("warp_sum float", &|t| float(warp(t).iter().sum())),
        ("warp_sum", &|t| warp(t).iter().sum::<i32>() as u32),
        ("warp_max", &|t| float(most(warp(t)))),
        ("warp_scan", &|t| warp(t)[..=t % 32].iter().sum::<i32>() as u32),
        ("block_sum", &|_| float(x.iter().sum())),
        ("block_max", &|_| float(most(&x))),
        ("block_prefix", &|t| x[..t].iter().sum::<i32>() as u32),
        ("block_prefix total", &|_| x.iter().sum::<i32>() as u32),
        ("block_any none", &|_| 0),
        ("block_any one", &|_| 1),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        p.same(name, "", &y[row * 128..][..128], &(0..128).map(value).collect::<Vec<_>>());
    }
    Ok(())
}

fn handovers(p: &mut Probes) -> Result<(), String> {
    let x = words(128);
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("handovers", BLOCK, 4 * 128, &[device_x.arg()])?;
    let rows: [(&str, &dyn Fn(usize) -> u32); 4] = [
        ("block_barrier", &|t| x[127 - t]),
        ("warp_barrier", &|t| x[t ^ 31]),
        ("warp_barrier halves", &|t| if t % 2 == 1 { x[t ^ 6] } else { x[t ^ 10] + 1 }),
        ("warp_barrier ten lanes", &|t| if t % 32 < 10 { x[t / 32 * 32 + 9 - t % 32] } else { 0 }),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        p.same(name, "", &y[row * 128..][..128], &(0..128).map(value).collect::<Vec<_>>());
    }

    let y: Vec<u32> = p.run("named_barriers", BLOCK, 3 * 128, &[device_x.arg()])?;
    let rows: [(&str, &dyn Fn(usize) -> u32); 3] = [
        ("named_barrier", &|t| x[t ^ 32]),
        ("named_arrive", &|t| if t < 64 { 0 } else { x[t - 64].wrapping_mul(3) }),
        ("named_barrier again", &|t| x[(t + 5) % 128] + 5),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        p.same(name, "", &y[row * 128..][..128], &(0..128).map(value).collect::<Vec<_>>());
    }
    Ok(())
}

fn atomics(p: &mut Probes) -> Result<(), String> {
    let sums = p.upload(&[0u32; 4]);
    let tickets: Vec<u32> = p.run("atomics", BLOCK, 4 * 128, &[sums.arg()])?;
    p.same("atomic_add tickets", "", &tickets, &(0..512).map(|i| i / 128 + 1).collect::<Vec<_>>());
    let sums: Vec<u32> = p.device.download(&sums)?;
    // 128 and the sum of the threads' numbers.
    let shared = 128 + 8128;
    p.same("atomic_add", "", &sums, &[128, 128f32.to_bits(), shared, (shared as f32).to_bits()]);
    Ok(())
}

fn shared_arrays(p: &mut Probes) -> Result<(), String> {
    let x = words(128);
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("shared_arrays", Shape { shared: 1024, ..BLOCK }, 6 * 128, &[device_x.arg()])?;
    let rows: [(&str, &dyn Fn(usize) -> u32); 6] = [
        ("DYNAMIC_SHARED", &|t| x[127 - t]),
        ("SHARED floats", &|t| x[127 - t] + 1),
        ("SHARED words", &|t| x[t % 16]),
        ("shared_address", &|t| t as u32 * 4),
        ("DYNAMIC_SHARED alignment", &|t| t as u32),
        ("SHARED alignment", &|_| 200),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        p.same(name, "", &y[row * 128..][..128], &(0..128).map(value).collect::<Vec<_>>());
    }
    Ok(())
}
