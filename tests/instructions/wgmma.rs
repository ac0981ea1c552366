//! Products of a warpgroup.

use half::{bf16, f16};
use vitscope::backend::gpu::{
    jit::Source,
    launch::{Arg, Shape, Storage, TileMap},
};

use crate::{
    device::Buffer,
    probes::{BLOCK, Probes, file, probe},
    tiles::swizzle,
};

static WGMMA: Source = file!("wgmma.cu");
const SHAPE: Shape = Shape { shared: 65536, ..BLOCK };

#[test]
fn a_warpgroup_multiplies_every_form_of_operand() {
    probe(&WGMMA, |p| {
        for n in [64, 128, 256] {
            for span in [16, 32, 64, 128] {
                products(p, Storage::F16, n, span, |x| f16::from_f32(x).to_bits())?;
                products(p, Storage::Bf16, n, span, |x| bf16::from_f32(x).to_bits())?;
            }
        }
        groups(p)?;
        registers(p)
    });
}

/// Numbers from -4 to 4, of which any order of at most 64 products has an exact sum.
fn number(i: usize, k: usize, salt: usize) -> f32 {
    ((i * 31 + k * 17 + i * k * salt) % 9) as f32 - 4.0
}

/// Operands in lines of `span` bytes, of which A is K-major (k), MN-major (m) or from registers (r), and B is k or m.
fn products(p: &mut Probes, storage: Storage, n: usize, span: usize, of: impl Fn(f32) -> u16) -> Result<(), String> {
    let depth = (span / 2).max(16);
    let (a, b) = (|m, k| number(m, k, 5), |n, k| number(n, k, 7));
    // Either major: the operand's rows one after another, or its columns.
    let lay = |rows: usize, is_mn: bool, value: &dyn Fn(usize, usize) -> f32| -> Vec<u16> {
        (0..rows * depth)
            .map(|i| if is_mn { of(value(i % rows, i / rows)) } else { of(value(i / depth, i % depth)) })
            .collect()
    };
    let before: Vec<f32> = (0..64 * n).map(|i| i as f32).collect();
    let exact: Vec<f32> = (0..64 * n).map(|i| (0..depth).map(|k| a(i / n, k) * b(i % n, k)).sum()).collect();
    for (form, keeps) in ["kk", "km", "mk", "mm", "rk", "rm"].into_iter().zip([true, false].into_iter().cycle()) {
        // Whether the first product adds to the ones that are there: by turns.
        let keeps = keeps ^ (span == 32 || span == 128);
        let (a_is_mn, b_is_mn) = (form.starts_with('m'), form.ends_with('m'));
        let (device_a, device_b) = (p.upload(&lay(64, a_is_mn, &a)), p.upload(&lay(n, b_is_mn, &b)));
        let map = |buffer: &Buffer, rows: usize, is_mn: bool| {
            let line = span as u32 / 2;
            let (size, area) =
                if is_mn { ([depth, rows], [line, depth as u32]) } else { ([rows, depth], [line, rows as u32]) };
            Arg::Tiles(TileMap::matrix(buffer.address(), storage, size, area, swizzle(span)))
        };
        let kernel = format!("product_{}_{n}_{form}", storage.name());
        let maps = [map(&device_a, 64, a_is_mn), map(&device_b, n, b_is_mn)];
        let args = [maps[0], maps[1], device_a.arg(), Arg::size(span), Arg::I32(keeps.into())];
        let y = p.upload(&before);
        p.launch(&kernel, SHAPE, &[&[y.arg()], &args[..]].concat())?;
        let found: Vec<f32> = p.device.download(&y)?;
        let expected: Vec<f32> = exact.iter().zip(&before).map(|(x, more)| if keeps { x + more } else { *x }).collect();
        p.same(&kernel, format_args!("span {span}"), &found, &expected);
    }
    Ok(())
}

fn groups(p: &mut Probes) -> Result<(), String> {
    let value = |i: usize, k: usize| number(i, k, 3);
    let lay = |from: usize| -> Vec<u16> {
        (0..64 * 32).map(|i| f16::from_f32(value(from + i / 32, i % 32)).to_bits()).collect()
    };
    let (a, b) = (p.upload(&lay(0)), p.upload(&[lay(64), lay(128)].concat()));
    let y = p.upload(&(0..2 * 64 * 64).map(|i| i as f32).collect::<Vec<_>>());
    p.launch("groups", SHAPE, &[y.arg(), a.arg(), b.arg()])?;
    let found: Vec<f32> = p.device.download(&y)?;
    let exact = |i: usize| {
        let (row, column) = (i / 64 % 64, 64 + i / 4096 * 64 + i % 64);
        i as f32 + (0..32).map(|k| value(row, k) * value(column, k)).sum::<f32>()
    };
    p.same("groups", "", &found, &(0..2 * 64 * 64).map(exact).collect::<Vec<_>>());
    Ok(())
}

fn registers(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u32> = (0..384).map(|i| i * 13 + 1).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("registers", Shape { block: [384, 1, 1], ..BLOCK }, 384, &[device_x.arg()])?;
    let sum = |t: usize| (0..16).fold(x[t], |sum, i| sum.wrapping_mul(3).wrapping_add(x[(t * 7 + i) % 384]));
    let expected: Vec<u32> = (0..384).map(|t| if t < 128 { x[t] + 1 } else { sum(t) }).collect();
    p.same("setmaxnreg", "", &y, &expected);
    Ok(())
}
