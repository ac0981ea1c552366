//! The ladders before and after the blocks: pictures, patches, rows, scores, maps.

use rayon::prelude::*;

use super::{Bound, Case, Cost, Data, Make, Sizes};
use crate::{
    Result,
    backend::{
        ScoreKind,
        cpu::embed,
        gpu::{
            head, heatmap,
            memory::{decode, encode},
            patch_embed, preprocess, rows,
        },
    },
    image::{self, Axis, Colormap, OverlayOptions, Rgb8, Scale, Upsample},
};

/// By ladder.
pub const CASES: [(&str, Make); 16] = [
    ("preprocess_forward", pixels),
    ("patch_embed_patches", patches),
    ("patch_embed_patches_u8", patches_u8),
    ("patch_embed_positions", positions),
    ("patch_embed_reverse", patches_reverse),
    ("rows_fill", fill),
    ("rows_gather", gather),
    ("rows_add", add),
    ("head_mean_tokens", mean_tokens),
    ("head_mean_tokens_reverse", mean_tokens_reverse),
    ("head_cosine", cosine),
    ("head_score_reverse", score_reverse),
    ("heatmap_grad_eclip", grad_eclip),
    ("heatmap_grad_cam", grad_cam),
    ("heatmap_upsample", upsample),
    ("heatmap_colour", colour),
];

/// Each value rounded a few times in f32, and once to where it is stored.
const POINTWISE: Bound = Bound::Sums { terms: 8, roundings: 1 };

/// Pixels of a pass.
fn area(s: &Sizes) -> usize {
    s.batch * s.grid.height * s.grid.width
}

/// The length of a patch's row.
fn patch_row(data: &Data, s: &Sizes) -> usize {
    patch_embed::row_length(3 * s.grid.patch * s.grid.patch, data.storage().run())
}

fn size(s: &Sizes) -> String {
    format!("B {} {}x{} pixels", s.batch, s.grid.height, s.grid.width)
}

/// Random bytes of pictures, on the device and here.
fn picture(data: &mut Data, n: usize) -> Result<(u64, Vec<u8>)> {
    let bytes: Vec<u8> = data.random(n, |v| v * 60.0 + 128.0).into_iter().map(|v| v as u8).collect();
    Ok((data.bytes(&bytes)?, bytes))
}

/// Rows of patches (values f32, 3 p p a row) as they lie in `stride`, rounded to the storage type.
fn padded(data: &Data, s: &Sizes, stride: usize, patches: &[f32]) -> Vec<f64> {
    let row = 3 * s.grid.patch * s.grid.patch;
    let mut rows = vec![0.0; s.rows() * stride];
    for (to, from) in rows.chunks_mut(stride).zip(patches.chunks(row)) {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
    }
    decode(&encode(rows.into_par_iter(), data.storage()), data.storage())
}

fn pixels(data: &mut Data, s: &Sizes) -> Result<Case> {
    let n = area(s);
    let ((picture, bytes), (table, values)) = (picture(data, 3 * n)?, data.known_floats(3 * 256)?);
    let (pixels, height, width) = (data.wide_output(3 * n, Bound::Exact)?, s.grid.height, s.grid.width);
    let pass = preprocess::Forward { pixels, picture, table, batch: s.batch, height, width };
    let of_image = |image: &[u8]| -> Vec<f64> {
        let value = |c: usize, byte: u8| f64::from(values[c * 256 + usize::from(byte)]);
        (0..3).flat_map(|c| image[c..].iter().step_by(3).map(move |&byte| value(c, byte))).collect()
    };
    let truth = bytes.chunks(3 * height * width).flat_map(of_image).collect();
    Ok(data.case(size(s), pass, Cost::moves(15 * n, 0)).with_truth(vec![truth]))
}

fn patches(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (stride, bytes) = (patch_row(data, s), data.storage().bytes());
    let pass = patch_embed::Patches {
        patches: data.output(s.rows() * stride, Bound::Exact)?,
        pixels: data.floats(3 * area(s), 1.0)?,
        stride,
        grid: s.grid,
        batch: s.batch,
    };
    Ok(data.case(size(s), pass, Cost::moves(12 * area(s) + s.rows() * stride * bytes, 0)))
}

fn patches_u8(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (stride, bytes) = (patch_row(data, s), data.storage().bytes());
    let ((picture, picture_bytes), (table, values)) = (picture(data, 3 * area(s))?, data.known_floats(3 * 256)?);
    let patches = data.output(s.rows() * stride, Bound::Exact)?;
    let pass = patch_embed::PatchesU8 { patches, picture, table, stride, grid: s.grid, batch: s.batch };
    let mut truth = vec![0.0f32; s.rows() * 3 * s.grid.patch * s.grid.patch];
    embed::bytes_to_patches(&mut truth, &picture_bytes, &values, s.grid);
    let truth = padded(data, s, stride, &truth);
    Ok(data.case(size(s), pass, Cost::moves(3 * area(s) + s.rows() * stride * bytes, 0)).with_truth(vec![truth]))
}

fn positions(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, width, n) = (s.grid.tokens(), s.width, s.rows() * s.width);
    let pass = patch_embed::Positions {
        x: data.sum(n, POINTWISE)?,
        cls: data.floats(width, 1.0)?,
        positions: data.floats(tokens * width, 0.1)?,
        batch: s.batch,
        tokens,
        width,
    };
    let cost = Cost::moves(2 * n * data.storage().bytes() + 4 * (tokens + 1) * width, n);
    Ok(data.case(format!("N {} D {width}", s.rows()), pass, cost))
}

fn patches_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (stride, bytes) = (patch_row(data, s), data.storage().bytes());
    let pass = patch_embed::Reverse {
        dpixels: data.wide_output(3 * area(s), Bound::Exact)?,
        dpatches: data.values(s.rows() * stride, 1.0)?,
        stride,
        grid: s.grid,
        g: s.batch,
    };
    let read = s.batch * s.grid.patches() * 3 * s.grid.patch * s.grid.patch;
    Ok(data.case(size(s), pass, Cost::moves(12 * area(s) + read * bytes, 0)))
}

fn fill(data: &mut Data, s: &Sizes) -> Result<Case> {
    let n = s.rows() * s.width;
    let pass = rows::Fill { x: data.output(n, Bound::Exact)?, value: 1.5, n, is_wide: false };
    Ok(data.case(format!("N {} D {}", s.rows(), s.width), pass, Cost::moves(n * data.storage().bytes(), 0)))
}

/// The CLS rows.
fn gather(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, width) = (s.batch, s.width);
    let list: Vec<u32> = (0..n).map(|image| (image * s.grid.tokens()) as u32).collect();
    let pass = rows::Gather {
        y: data.output(n * width, Bound::Exact)?,
        x: data.values(s.rows() * width, 1.0)?,
        rows: data.bytes(bytemuck::cast_slice(&list))?,
        n,
        width,
    };
    let cost = Cost::moves(2 * n * width * data.storage().bytes() + 4 * n, 0);
    Ok(data.case(format!("{n} of N {} D {width}", s.rows()), pass, cost))
}

fn add(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (n, width) = (s.rows(), s.width);
    let pass =
        rows::Add { y: data.sum(n * width, POINTWISE)?, stride: width, x: data.values(n * width, 1.0)?, n, width };
    let cost = Cost::moves(3 * n * width * data.storage().bytes(), n * width);
    Ok(data.case(format!("N {n} D {width}"), pass, cost))
}

fn mean_tokens(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (batch, tokens, width) = (s.batch, s.grid.tokens(), s.width);
    let bound = Bound::Sums { terms: tokens + 16, roundings: 1 };
    let pass = head::MeanTokens {
        y: data.output(batch * width, bound)?,
        x: data.values(batch * tokens * width, 1.0)?,
        batch,
        tokens,
        width,
    };
    let cost = Cost::moves(batch * (tokens + 1) * width * data.storage().bytes(), batch * tokens * width);
    Ok(data.case(format!("B {batch} T {tokens} D {width}"), pass, cost))
}

fn mean_tokens_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (g, tokens, width) = (s.batch, s.grid.tokens(), s.width);
    let pass = head::MeanTokensReverse {
        dx: data.output(g * tokens * width, POINTWISE)?,
        dy: data.values(g * width, 1.0)?,
        g,
        tokens,
        width,
    };
    let cost = Cost::moves(g * (tokens + 1) * width * data.storage().bytes(), g * tokens * width);
    Ok(data.case(format!("G {g} T {tokens} D {width}"), pass, cost))
}

/// Rows of length about 1.
fn texts(data: &mut Data, s: &Sizes) -> Result<u64> {
    data.floats(s.texts * s.embed, (s.embed as f64).powf(-0.5))
}

fn cosine(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (batch, queries, width) = (s.batch, s.texts, s.embed);
    let bound = Bound::Sums { terms: 2 * width + 16, roundings: 0 };
    let pass = head::Cosine {
        cos: data.wide_output(batch * queries, bound)?,
        embed: data.values(batch * width, 1.0)?,
        texts: texts(data, s)?,
        batch,
        queries,
        width,
    };
    let bytes = batch * width * data.storage().bytes() + 4 * (queries * width + batch * queries);
    let cost = Cost::moves(bytes, 4 * batch * queries * width);
    Ok(data.case(format!("B {batch} Q {queries} E {width}"), pass, cost))
}

fn score_reverse(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (batch, queries, width) = (s.batch, s.texts, s.embed);
    let embed = data.values(batch * width, 1.0)?;
    let texts = texts(data, s)?;
    let cos = data.scratch(batch * queries * size_of::<f32>())?;
    data.run(&head::Cosine { cos, embed, texts, batch, queries, width })?;
    let bound = Bound::Sums { terms: 4 * (queries + width) + 64, roundings: 1 };
    let dembed = data.output(batch * width, bound)?;
    let (kind, scale, first, g) = (ScoreKind::Softmax, 100.0, 0, batch);
    let pass = head::ScoreReverse { dembed, embed, cos, texts, kind, scale, first, batch, queries, width, g };
    let bytes = 2 * batch * width * data.storage().bytes() + 4 * (queries * width + batch * queries);
    let cost = Cost::moves(bytes, 3 * g * queries * width);
    Ok(data.case(format!("softmax G {g} Q {queries} E {width}"), pass, cost))
}

fn grad_eclip(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, width, bytes) = (s.grid.tokens(), s.width, data.storage().bytes());
    let bound = Bound::Sums { terms: 4 * width + tokens + 16, roundings: 0 };
    let pass = heatmap::GradEclip {
        map: data.wide_output(s.batch * s.grid.patches(), bound)?,
        d_o: data.values(s.batch * width, 1.0)?,
        qkv: data.values(3 * s.rows() * width, 1.0)?,
        batch: s.batch,
        tokens,
        queries: 1,
        width,
        g: s.batch,
    };
    let patches = s.batch * s.grid.patches();
    let cost = Cost::moves((2 * patches + 2 * s.batch) * width * bytes + 4 * patches, 6 * patches * width);
    Ok(data.case(format!("G {} T {tokens} D {width}", s.batch), pass, cost))
}

fn grad_cam(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (tokens, width, bytes) = (s.grid.tokens(), s.width, data.storage().bytes());
    let bound = Bound::Sums { terms: 2 * width + tokens + 16, roundings: 0 };
    let pass = heatmap::GradCam {
        map: data.wide_output(s.batch * s.grid.patches(), bound)?,
        dx: data.values(s.rows() * width, 1.0)?,
        x: data.values(s.rows() * width, 1.0)?,
        batch: s.batch,
        tokens,
        width,
        g: s.batch,
    };
    let patches = s.batch * s.grid.patches();
    let cost = Cost::moves(2 * patches * width * bytes + 4 * patches, 3 * patches * width);
    Ok(data.case(format!("G {} T {tokens} D {width}", s.batch), pass, cost))
}

fn upsample(data: &mut Data, s: &Sizes) -> Result<Case> {
    let grid = s.grid;
    let (covered_height, covered_width) = grid.covered();
    let axis = |n: usize, extent: usize| heatmap::taps(&Axis::new(n, 0.0, extent as f64, extent, Upsample::Bilinear));
    let ((x, count), (y, _)) = (axis(grid.cols, covered_width), axis(grid.rows, covered_height));
    let n = s.batch * covered_height * covered_width;
    let (map, maps) = data.known_floats(s.batch * grid.patches())?;
    let mut truth = Vec::with_capacity(n);
    for map in maps.chunks(grid.patches()) {
        let values = image::upsample(map, grid.rows, grid.cols, covered_height, covered_width, Upsample::Bilinear)?;
        truth.extend(values.into_iter().map(f64::from));
    }
    let pass = heatmap::Upsample {
        values: data.wide_output(n, POINTWISE)?,
        map,
        x_taps: data.bytes(bytemuck::cast_slice(&x))?,
        y_taps: data.bytes(bytemuck::cast_slice(&y))?,
        taps: count,
        g: s.batch,
        rows: grid.rows,
        cols: grid.cols,
        height: covered_height,
        width: covered_width,
    };
    let cost = Cost::moves(4 * n + 4 * s.batch * grid.patches(), 2 * n * count * count);
    Ok(data.case(size(s), pass, cost).with_truth(vec![truth]))
}

fn colour(data: &mut Data, s: &Sizes) -> Result<Case> {
    let (height, width, n) = (s.grid.height, s.grid.width, area(s));
    let scale: Vec<f32> = [-1.5, 1.5].repeat(s.batch);
    let ((values, maps), (picture, bytes)) = (data.known_floats(n)?, picture(data, 3 * height * width)?);
    let shown = Rgb8 { width, height, data: bytes };
    let options = OverlayOptions {
        colormap: Colormap::Turbo,
        alpha: 0.5,
        fade: 1.0,
        scale: Some(Scale { min: -1.5, max: 1.5 }),
        // A value for each pixel.
        upsample: Upsample::Nearest,
        ..OverlayOptions::default()
    };
    let mut truth = Vec::with_capacity(3 * n);
    for map in maps.chunks(height * width) {
        truth.extend(image::blend(&shown, map, height, width, &options)?.data.into_iter().map(f64::from));
    }
    let pass = heatmap::Colour {
        out: data.bytes_output(3 * n)?,
        values,
        picture,
        scale: data.bytes(bytemuck::cast_slice(&scale))?,
        table: data.bytes(Colormap::Turbo.table().as_flattened())?,
        colormap: Colormap::Turbo,
        alpha: 0.5,
        fade: 1.0,
        corner: (0, 0),
        inner: (height, width),
        g: s.batch,
        height,
        width,
    };
    Ok(data.case(size(s), pass, Cost::moves(7 * n + 3 * height * width, 12 * n)).with_truth(vec![truth]))
}
