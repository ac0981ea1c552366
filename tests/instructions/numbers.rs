//! Conversions, accesses of 16 bytes, products that must not fuse, and mathematics.

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitscope::backend::gpu::{
    jit::Source,
    launch::{Arg, Shape},
};

use crate::probes::{BLOCK, Probes, file, probe};

static NUMBERS: Source = file!("numbers.cu");

#[test]
fn numbers_are_rounded_as_defined() {
    probe(&NUMBERS, |p| {
        // One order of threads is enough where no thread meets another.
        if p.device.is_repetition() {
            return Ok(());
        }
        widened(p)?;
        narrowed(p)?;
        vectors(p)?;
        unfused(p)?;
        rounded(p)?;
        approximated(p)
    });
}

/// Threads for `n` values.
fn threads(n: usize) -> Shape {
    Shape::line(n, 128, 128)
}

fn widened(p: &mut Probes) -> Result<(), String> {
    const ALL: usize = 1 << 16;
    let back = p.device.unwritten::<u16>(2 * ALL);
    let y: Vec<u32> = p.run("widened", threads(ALL), 2 * ALL, &[back.arg()])?;
    let back: Vec<u16> = p.device.download(&back)?;
    let all = || 0..=u16::MAX;
    // The one NaN that the GPU's conversion gives.
    let or_nan = |is_nan: bool, bits: u16| if is_nan { 0x7fff } else { bits };
    let f16_bits: Vec<u32> = all().map(|i| f16::from_bits(i).to_f32().to_bits()).collect();
    let bf16_bits: Vec<u32> = all().map(|i| u32::from(i) << 16).collect();
    p.same_numbers("to_float f16", "", &y[..ALL], &f16_bits);
    p.same("to_float bf16", "", &y[ALL..], &bf16_bits);
    let f16_back: Vec<u16> = all().map(|i| or_nan(f16::from_bits(i).is_nan(), i)).collect();
    let bf16_back: Vec<u16> = all().map(|i| or_nan(bf16::from_bits(i).is_nan(), i)).collect();
    p.same("to_f16 back", "", &back[..ALL], &f16_back);
    p.same("to_bf16 back", "", &back[ALL..], &bf16_back);
    Ok(())
}

/// Any bits; the borders of infinity, zero and the subnormal numbers; halfway between neighbours, and just beside it.
fn narrowed(p: &mut Probes) -> Result<(), String> {
    const N: usize = 1 << 15;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let special = [
        0.0,
        -0.0,
        65504.0,
        65519.996,
        65520.0,
        -65520.0,
        2.9802322e-8,
        2.9802326e-8,
        5.9604645e-8,
        6.1e-5,
        6.1035156e-5,
        3.3895314e38,
        3.3961776e38,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        f32::from_bits(0x8000),
        f32::from_bits(0x8001),
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7f80_0001),
    ];
    let mut x: Vec<f32> = (0..N).map(|_| f32::from_bits(rng.random())).collect();
    x[..special.len()].copy_from_slice(&special);
    for (i, x) in x.iter_mut().enumerate().skip(1024) {
        let (number, beside) = ((i as u32 / 4 * 37) & 0xffff, i as u32 % 3);
        match i % 4 {
            0 => *x = f32::from_bits(f16::from_bits(number as u16).to_f32().to_bits().wrapping_add(0x0fff + beside)),
            1 => *x = f32::from_bits((number << 16) + 0x7fff + beside),
            _ => {}
        }
    }
    let (device_x, pairs) = (p.upload(&x), p.device.unwritten::<u32>(2 * N));
    let size = Arg::size(N);
    let y: Vec<u16> = p.run("narrowed", threads(N), 2 * N, &[pairs.arg(), device_x.arg(), size])?;
    let pairs: Vec<u32> = p.device.download(&pairs)?;
    let to_f16 = |x: f32| if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() };
    let to_bf16 = |x: f32| if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() };
    let of = |to: &dyn Fn(f32) -> u16| -> Vec<u16> { x.iter().map(|&x| to(x)).collect() };
    let in_pairs = |to: &dyn Fn(f32) -> u16| -> Vec<u32> {
        (0..N).map(|i| u32::from(to(x[i])) | u32::from(to(x[(i + 1) % N])) << 16).collect()
    };
    p.same("to_f16", "", &y[..N], &of(&to_f16));
    p.same("to_bf16", "", &y[N..], &of(&to_bf16));
    p.same("pack f16", "", &pairs[..N], &in_pairs(&to_f16));
    p.same("pack bf16", "", &pairs[N..], &in_pairs(&to_bf16));
    Ok(())
}

fn vectors(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u32> = (0..512).map(|i: u32| i.wrapping_mul(0x9e37_79b9) ^ 0x7fc0_0000).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("vectors", BLOCK, 1792, &[device_x.arg()])?;
    // Thread t's words go to where those of thread 127 - t were, the last value first.
    let floats: Vec<u32> = x.iter().rev().copied().collect();
    let halves: Vec<u32> = floats.iter().map(|word| word.rotate_left(16)).collect();
    p.same("load_vec store_vec f32", "", &y[..512], &floats);
    p.same("load_vec store_vec f16", "", &y[512..1024], &halves);
    p.same("load_vec store_vec bf16", "", &y[1024..1536], &halves);
    let pairs: Vec<u32> = (0..256).map(|i| x[127 - i / 2 + i % 2 * 128]).collect();
    p.same("store_pair", "", &y[1536..], &pairs);
    Ok(())
}

fn unfused(p: &mut Probes) -> Result<(), String> {
    const N: usize = 1024;
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut numbers = || -> Vec<f32> { (0..N).map(|_| rng.random_range(-2.0..2.0f32)).collect() };
    let (a, b, mut c) = (numbers(), numbers(), numbers());
    // What rounding took from the product is all that a fused sum would leave.
    for i in (0..N).step_by(2) {
        c[i] = -(a[i] * b[i]);
    }
    let [device_a, device_b, device_c] = [&a, &b, &c].map(|x| p.upload(x));
    let wide = p.device.unwritten::<u64>(N);
    let args = [wide.arg(), device_a.arg(), device_b.arg(), device_c.arg()];
    let y: Vec<u32> = p.run("unfused", threads(N), 2 * N, &args)?;
    let wide: Vec<u64> = p.device.download(&wide)?;
    p.same("product float", "", &y[..N], &(0..N).map(|i| (a[i] * b[i] + c[i]).to_bits()).collect::<Vec<_>>());
    let sum = |i: usize| (f64::from(a[i]) / 3.0) * (f64::from(b[i]) / 7.0) + f64::from(c[i]);
    p.same("product double", "", &wide, &(0..N).map(|i| sum(i).to_bits()).collect::<Vec<_>>());
    p.same("ceil_div", "", &y[N..], &(0..N as u32).map(|i| i.div_ceil(7)).collect::<Vec<_>>());
    Ok(())
}

/// Division, root, fused product and sum, rounding, magnitude and extremes: any bits and each special number with each.
/// No signalling NaN: no arithmetic gives one, and glibc's extremes take it for more than a missing value.
fn rounded(p: &mut Probes) -> Result<(), String> {
    const N: usize = 4096;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let special =
        [0.0, 1.0, -1.5, f32::MIN_POSITIVE, f32::from_bits(3), f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let quiet = |x: f32| if x.is_nan() { f32::NAN } else { x };
    let mut any = || -> Vec<f32> { (0..N).map(|_| quiet(f32::from_bits(rng.random()))).collect() };
    let (mut a, mut b, mut c) = (any(), any(), any());
    let count = special.len();
    for i in 0..count * count * count {
        [a[i], b[i], c[i]] = [special[i % count], special[i / count % count], special[i / count / count]];
    }
    // Near 1, where products cancel, and halves to be rounded.
    for i in 2048..N {
        [a[i], b[i]] = [a[i], b[i]].map(|x| f32::from_bits(x.to_bits() & 0x007f_ffff | 0x3f80_0000));
        c[i] = if i % 2 == 0 { -(a[i] * b[i]) } else { (i as f32 - 3000.0) / 2.0 };
    }
    let [device_a, device_b, device_c] = [&a, &b, &c].map(|x| p.upload(x));
    let args = [device_a.arg(), device_b.arg(), device_c.arg(), Arg::size(N)];
    let y: Vec<u32> = p.run("rounded", threads(N), 7 * N, &args)?;
    let rows: [(&str, &dyn Fn(usize) -> f32); 7] = [
        ("division", &|i| a[i] / b[i]),
        ("sqrtf", &|i| a[i].sqrt()),
        ("fmaf", &|i| a[i].mul_add(b[i], c[i])),
        ("roundf", &|i| c[i].round()),
        ("fabsf", &|i| a[i].abs()),
        ("fmaxf", &|i| a[i].max(b[i])),
        ("fminf", &|i| a[i].min(b[i])),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        let expected: Vec<u32> = (0..N).map(|i| value(i).to_bits()).collect();
        p.same_numbers(name, "", &y[row * N..][..N], &expected);
    }

    // In double: products of two of them use all the digits. No zero is negative: which of two is the greater is open.
    let product = |(&x, &y): (&f32, &f32)| f64::from(x) * f64::from(y) + 0.0;
    let wide = |x: &[f32], y: &[f32]| -> Vec<f64> { x.iter().zip(y).map(product).collect() };
    let (x, y) = (wide(&a, &b), wide(&c, &a));
    let [device_x, device_y] = [&x, &y].map(|x| p.upload(x));
    let args = [device_x.arg(), device_y.arg(), Arg::size(N)];
    let found: Vec<f64> = p.run("rounded_double", threads(N), 4 * N, &args)?;
    let rows: [(&str, &dyn Fn(usize) -> f64); 4] = [
        ("division double", &|i| x[i] / y[i]),
        ("fmax", &|i| x[i].max(y[i])),
        ("fmin", &|i| x[i].min(y[i])),
        ("double to float", &|i| f64::from(x[i] as f32)),
    ];
    for (row, (name, value)) in rows.into_iter().enumerate() {
        let one_nan = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
        let found: Vec<u64> = found[row * N..][..N].iter().map(|&x| one_nan(x)).collect();
        p.same(name, "", &found, &(0..N).map(|i| one_nan(value(i))).collect::<Vec<_>>());
    }
    Ok(())
}

/// The distance from a number to the next, in f32.
fn ulp(x: f64) -> f64 {
    (x.abs().log2().floor().max(-126.0) - 23.0).exp2()
}

/// Functions that are not the same bits everywhere. How many units in the last place lie between their results and the
/// correctly rounded ones is from the CUDA C++ Programming Guide, "Mathematical Functions"; the relative error of
/// `ex2.approx` is from the PTX manual.
fn approximated(p: &mut Probes) -> Result<(), String> {
    const N: usize = 4096;
    let part = |i: usize| i as f64 / N as f64;
    type Function<'a> = (&'a str, &'a dyn Fn(f64) -> f64, &'a dyn Fn(f64) -> f64, f64);
    let functions: [Function; 5] = [
        ("expf", &|part| part * 174.0 - 86.5, &f64::exp, 2.0),
        ("logf", &|part| if part < 0.5 { (part * 500.0 - 125.0).exp2() } else { part + 0.25 }, &f64::ln, 1.0),
        ("tanhf", &|part| if part < 0.5 { part * 40.0 - 10.0 } else { (part * 60.0 - 60.0).exp2() }, &f64::tanh, 2.0),
        ("erff", &|part| if part < 0.5 { part * 20.0 - 5.0 } else { (part * 60.0 - 60.0).exp2() }, &libm::erf, 2.0),
        ("rsqrtf", &|part| (part * 250.0 - 125.0).exp2(), &|x| 1.0 / x.sqrt(), 2.0),
    ];
    let mut x: Vec<f32> = functions.iter().flat_map(|f| (0..N).map(|i| f.1(part(i)) as f32)).collect();
    x.extend((0..N).map(|i| (part(i) * 250.0 - 125.0) as f32));
    // Results that are no normal numbers, or whole.
    let special = [f32::NEG_INFINITY, -1000.0, -127.0, -126.5, 0.0, f32::INFINITY];
    x[5 * N..][..special.len()].copy_from_slice(&special);
    let device_x = p.upload(&x);
    let y: Vec<f32> = p.run("approximated", threads(N), 6 * N, &[device_x.arg(), Arg::size(N)])?;
    for (row, &(name, _, exact, ulps)) in functions.iter().enumerate() {
        let x = &x[row * N..][..N];
        // Half a unit is between the exact value and the correctly rounded one.
        p.near(name, &y[row * N..][..N], |i| exact(f64::from(x[i])), |exact| (ulps + 0.5) * ulp(exact));
    }
    let (x, y) = (&x[5 * N + special.len()..], &y[5 * N..]);
    p.same("power_of_2 special", "", &y[..special.len()], &[0.0, 0.0, 0.0, 0.0, 1.0, f32::INFINITY]);
    p.near("power_of_2", &y[special.len()..], |i| f64::from(x[i]).exp2(), |exact| exact / f64::from(1 << 22));
    Ok(())
}
