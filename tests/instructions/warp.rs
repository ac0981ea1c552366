//! Matrix instructions and asynchronous copies of sm_80.

use half::{bf16, f16};
use vitscope::backend::gpu::{jit::Source, launch::Shape};

use crate::probes::{BLOCK, Probes, file, probe};

static MATRICES: Source = file!("matrices.cu");
static COPIES: Source = file!("copies.cu");
const WARP: Shape = Shape { block: [32, 1, 1], ..BLOCK };

#[test]
fn a_warp_loads_and_multiplies_matrices() {
    probe(&MATRICES, |p| {
        loads(p)?;
        products(p)?;
        tf32_products(p)
    });
}

#[test]
fn threads_copy_without_waiting() {
    probe(&COPIES, |p| {
        sizes(p)?;
        groups(p)
    });
}

/// Lane l gets of each matrix row l / 4, columns 2 (l % 4) and the next; transposed, column l / 4 of those rows.
fn loads(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u16> = (0..64 * 8).map(|i| i * 77 + 3).collect();
    for (case, step) in [("rows in order", 1), ("rows anywhere", 43), ("one row", 0)] {
        let rows: Vec<u32> = (0..32).map(|lane| (lane * step + 5) % 64).collect();
        let (device_x, device_rows) = (p.upload(&x), p.upload(&rows));
        let y: Vec<u16> = p.run("loads", WARP, 512, &[device_x.arg(), device_rows.arg()])?;
        let value = |matrix: usize, row: usize, column: usize| x[rows[matrix * 8 + row] as usize * 8 + column];
        // Two halves of each of four words of each lane.
        let lay = |value: &dyn Fn(usize, usize, usize) -> u16| -> Vec<u16> {
            (0..256).map(|i| value(i / 2 % 4, i / 8 / 4, i / 8 % 4 * 2 + i % 2)).collect()
        };
        p.same("load_matrices", case, &y[..256], &lay(&value));
        p.same("load_matrices_transposed", case, &y[256..], &lay(&|m, row, column| value(m, column, row)));
    }
    Ok(())
}

fn number(i: usize, k: usize, salt: usize) -> f32 {
    ((i * 31 + k * 17 + i * k * salt) % 9) as f32 - 4.0
}

/// Numbers from -4 to 4 and sums that are whole: every order gives the same bits.
fn products(p: &mut Probes) -> Result<(), String> {
    let a: Vec<f32> = (0..256).map(|i| number(i / 16, i % 16, 5)).collect();
    let b: Vec<f32> = (0..128).map(|i| number(i / 16, i % 16, 7)).collect();
    let d: Vec<f32> = (0..128).map(|i| 1000.0 - i as f32).collect();
    let exact: Vec<f32> =
        (0..128).map(|i| d[i] + (0..16).map(|k| a[i / 8 * 16 + k] * b[i % 8 * 16 + k]).sum::<f32>()).collect();
    for name in ["product_f16", "product_bf16"] {
        let narrow = |x: &[f32]| -> Vec<u16> {
            let bits =
                |&x: &f32| if name == "product_f16" { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() };
            x.iter().map(bits).collect()
        };
        let [device_a, device_b] = [&a, &b].map(|x| p.upload(&narrow(x)));
        let device_d = p.upload(&d);
        p.launch(name, WARP, &[device_d.arg(), device_a.arg(), device_b.arg()])?;
        let found: Vec<f32> = p.device.download(&device_d)?;
        p.same(name, "", &found, &exact);
    }
    Ok(())
}

/// The last 13 bits of a factor do not count, here for factors that are whole numbers plus less than tf32 can hold.
fn tf32_products(p: &mut Probes) -> Result<(), String> {
    let a: Vec<f32> = (0..128).map(|i| number(i / 8, i % 8, 5)).collect();
    let b: Vec<f32> = (0..64).map(|i| number(i / 8, i % 8, 7)).collect();
    let d: Vec<f32> = (0..128).map(|i| 1000.0 - i as f32).collect();
    let exact: Vec<f32> =
        (0..128).map(|i| d[i] + (0..8).map(|k| a[i / 8 * 8 + k] * b[i % 8 * 8 + k]).sum::<f32>()).collect();
    for (name, ignored) in [("product_tf32", 0), ("product_tf32 ignored bits", 0x1fff)] {
        let with = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits() | ignored).collect() };
        // A zero with more bits would be a subnormal number, which is another question.
        let with =
            |x: &[f32]| -> Vec<u32> { with(x).into_iter().map(|bits| if bits < 0x2000 { 0 } else { bits }).collect() };
        let [device_a, device_b] = [&a, &b].map(|x| p.upload(&with(x)));
        let device_d = p.upload(&d);
        p.launch("product_tf32", WARP, &[device_d.arg(), device_a.arg(), device_b.arg()])?;
        let found: Vec<f32> = p.device.download(&device_d)?;
        p.same(name, "", &found, &exact);
    }
    Ok(())
}

fn sizes(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u8> = (0..2048u32).map(|i| (i * 7 % 255 + 1) as u8).collect();
    let device_x = p.upload(&x);
    let y: Vec<u8> = p.run("sizes", BLOCK, 2048, &[device_x.arg()])?;
    let value = |i: usize| {
        let (chunk, byte) = (127 - i / 16, i % 16);
        if byte < chunk % 17 { x[chunk * 16 + byte] } else { 0 }
    };
    p.same("copy_async_16 sizes", "", &y, &(0..2048).map(value).collect::<Vec<_>>());
    Ok(())
}

fn groups(p: &mut Probes) -> Result<(), String> {
    let x: Vec<u32> = (1..=6 * 512).collect();
    let device_x = p.upload(&x);
    let y: Vec<u32> = p.run("groups", BLOCK, 6 * 512, &[device_x.arg()])?;
    p.same("copy_async_wait groups", "", &y, &x);
    Ok(())
}
