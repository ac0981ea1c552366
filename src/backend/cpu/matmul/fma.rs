//! The product by fused multiply-adds: plain loops, compiled once per instruction set, over panels of 32 columns.
//!
//! Each element is one chain of fused multiply-adds along K (per block of K), so its bits are the same in every row,
//! with every instruction set that has them, and for any number of rows.

use super::amx::WIDTH;

/// Rows of X in a micro-kernel. 8 x 32 values of C are 16 of the 32 registers of AVX-512.
pub(super) const ROWS: usize = 8;

/// 32 columns of W at one `k`, aligned so that no vector load straddles two cache lines.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct PanelRow(pub [f32; WIDTH]);

/// The columns of a panel in some rows of C.
pub(super) type Sums = [[f32; WIDTH]; ROWS];

/// `c[r][j] = sum over k of x[r][k] panel[k][j]`, every row of `x` as long as the panel.
pub(super) fn block(x: [&[f32]; ROWS], panel: &[PanelRow], c: &mut Sums) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the instructions that the function is compiled for.
            return unsafe { block_avx512(x, panel, c) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has the instructions that the function is compiled for.
            return unsafe { block_avx2(x, panel, c) };
        }
    }
    block_baseline(x, panel, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn block_avx512(x: [&[f32]; ROWS], panel: &[PanelRow], c: &mut Sums) {
    tiles::<ROWS, WIDTH>(x, panel, c, f32::mul_add);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn block_avx2(x: [&[f32]; ROWS], panel: &[PanelRow], c: &mut Sums) {
    tiles::<4, 16>(x, panel, c, f32::mul_add);
}

/// For what the compiler's target has. Without a fused multiply-add in hardware the two roundings of a product and a
/// sum are far cheaper than one in software.
fn block_baseline(x: [&[f32]; ROWS], panel: &[PanelRow], c: &mut Sums) {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        tiles::<4, 16>(x, panel, c, f32::mul_add);
    } else {
        tiles::<4, 8>(x, panel, c, |x, w, sum| x * w + sum);
    }
}

/// Goes over C in tiles of R x S, as many as the registers hold.
#[inline(always)]
fn tiles<const R: usize, const S: usize>(
    x: [&[f32]; ROWS],
    panel: &[PanelRow],
    c: &mut Sums,
    mul_add: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let x = x.map(|row| &row[..panel.len()]);
    for r0 in (0..ROWS).step_by(R) {
        for s0 in (0..WIDTH).step_by(S) {
            let mut sums = [[0.0; S]; R];
            for (k, weights) in panel.iter().enumerate() {
                // A copy of its own: read through the reference it is loaded again for each row.
                let PanelRow(weights) = *weights;
                for r in 0..R {
                    let value = x[r0 + r][k];
                    for s in 0..S {
                        sums[r][s] = mul_add(value, weights[s0 + s], sums[r][s]);
                    }
                }
            }
            for (c, sums) in c[r0..].iter_mut().zip(sums) {
                c[s0..s0 + S].copy_from_slice(&sums);
            }
        }
    }
}
