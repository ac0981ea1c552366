//! Maps from activations and gradients, against f64; maps to coloured pictures, as the processor draws them.

use half::{bf16, f16};
use vitscope::{
    backend::gpu::{
        emulator::{Emulator, Settings},
        heatmap::{Colour, GradCam, GradEclip, Upsample, taps},
        launch::{self, Ladder},
    },
    image::{self, Axis, Colormap, OverlayOptions, Rect, Rgb8, Scale},
};

use crate::{
    CXX, checked,
    numbers::{Storage, assert_close, bytes, f32_steps, random},
    run,
};

fn dot<'a, T: Storage>(a: &'a [T], b: &'a [T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum()
}

fn magnitude<T: Storage>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.wide() * b.wide()).abs()).sum()
}

/// `queries`, `tokens`, `width` of two images and two targets.
fn check_eclip<T: Storage>(emulator: &Emulator, rung: u32, tokens: usize, queries: usize, width: usize) {
    let (batch, g, patches) = (2, 4, tokens - 1);
    let mut qkv: Vec<T> = random(batch * tokens * 3 * width, 1.0, 0.2, 1);
    let mut d_o: Vec<T> = random(g * queries * width, 1.0, 0.0, 2);
    // Image 1 has equal keys; the second gradient image's first token is not read by the score.
    for t in 1..tokens {
        qkv.copy_within(((tokens + 1) * 3 + 1) * width..((tokens + 1) * 3 + 2) * width, ((tokens + t) * 3 + 1) * width);
    }
    d_o[queries * width..(queries + 1) * width].fill(T::of(0.0));
    let (dev_qkv, dev_d_o) = (emulator.upload(&qkv).unwrap(), emulator.upload(&d_o).unwrap());
    let map = emulator.unwritten::<f32>(g * patches).unwrap();
    let pass = GradEclip {
        map: map.address(),
        d_o: dev_d_o.address(),
        qkv: dev_qkv.address(),
        batch,
        tokens,
        queries,
        width,
        g,
    };
    if run(emulator, &pass, rung, T::STORAGE).is_none() {
        return;
    }
    let steps = f32_steps(width + queries + 16);
    let (mut exact, mut slack) = (vec![0.0; g * patches], vec![0.0; g * patches]);
    for (row, d_o) in d_o.chunks(width).enumerate() {
        let (image, t) = (row / queries, row % queries);
        let part = |t: usize, part: usize| &qkv[((image % batch * tokens + t) * 3 + part) * width..][..width];
        if d_o.iter().all(|v| v.wide() == 0.0) {
            continue;
        }
        let q = part(t, 0);
        let cosine = |i: usize| {
            let k = part(i + 1, 1);
            dot(q, k) / (dot(q, q) * dot(k, k)).sqrt()
        };
        let low = (0..patches).map(cosine).fold(f64::INFINITY, f64::min);
        let range = (0..patches).map(cosine).fold(f64::NEG_INFINITY, f64::max) - low;
        for i in 0..patches {
            let is_flat = image % batch == 1 || patches == 1;
            let weight = if is_flat { 1.0 } else { (cosine(i) - low) / range };
            // A cosine is off by three sums of D terms that Cauchy and Schwarz hold to 1, and so are low and range.
            let weight_error = if is_flat { 0.0 } else { 12.0 * steps / range };
            let v = part(i + 1, 2);
            exact[image * patches + i] += weight * dot(d_o, v);
            slack[image * patches + i] += (weight_error + 2.0 * steps) * magnitude(d_o, v);
        }
    }
    let exact: Vec<f64> = exact.iter().map(|v| v.max(0.0)).collect();
    assert_close(&format!("eclip {rung} {tokens} {queries} {width}"), &map.download().unwrap(), &exact, |i| slack[i]);
}

fn check_cam<T: Storage>(emulator: &Emulator, rung: u32, tokens: usize, width: usize) {
    let (batch, g, patches) = (2, 4, tokens - 1);
    let (dx, x): (Vec<T>, Vec<T>) =
        (random(g * tokens * width, 1.0, 0.0, 1), random(batch * tokens * width, 1.0, 0.2, 2));
    let (dev_dx, dev_x) = (emulator.upload(&dx).unwrap(), emulator.upload(&x).unwrap());
    let map = emulator.unwritten::<f32>(g * patches).unwrap();
    let pass = GradCam { map: map.address(), dx: dev_dx.address(), x: dev_x.address(), batch, tokens, width, g };
    if run(emulator, &pass, rung, T::STORAGE).is_none() {
        return;
    }
    let (mut exact, mut slack) = (vec![], vec![]);
    let steps = f32_steps(patches + width + 8);
    for image in 0..g {
        let dx = &dx;
        let column = |d: usize| (1..tokens).map(move |t| dx[(image * tokens + t) * width + d].wide());
        let alpha: Vec<f64> = (0..width).map(|d| column(d).sum::<f64>() / patches as f64).collect();
        let spread: Vec<f64> = (0..width).map(|d| column(d).map(f64::abs).sum::<f64>() / patches as f64).collect();
        for t in 1..tokens {
            let x = &x[(image % batch * tokens + t) * width..][..width];
            exact.push(x.iter().zip(&alpha).map(|(x, a)| x.wide() * a).sum::<f64>().max(0.0));
            slack.push(steps * x.iter().zip(&spread).map(|(x, s)| x.wide().abs() * s).sum::<f64>());
        }
    }
    assert_close(&format!("cam {rung} {tokens} {width}"), &map.download().unwrap(), &exact, |i| slack[i]);
}

fn check_maps(emulator: &Emulator, rung: u32, tokens: usize, queries: usize, width: usize) {
    check_eclip::<f32>(emulator, rung, tokens, queries, width);
    check_eclip::<f16>(emulator, rung, tokens, queries, width);
    check_eclip::<bf16>(emulator, rung, tokens, queries, width);
    check_cam::<f32>(emulator, rung, tokens, width);
    check_cam::<f16>(emulator, rung, tokens, width);
    check_cam::<bf16>(emulator, rung, tokens, width);
}

/// Every kernel over a small shape.
pub fn every_kernel(emulator: &Emulator) {
    for rung in 1..=GradEclip::TOP {
        check_maps(emulator, rung, 5, 1, 16);
    }
    draw(emulator);
}

#[test]
fn every_rung_maps_within_its_rounding() {
    for emulator in checked() {
        for rung in 1..=GradEclip::TOP {
            for (tokens, queries, width) in
                [(2, 1, 1), (17, 1, 33), (50, 1, 64), (17, 17, 24), (5, 5, 264), (197, 1, 16), (257, 1, 8), (577, 1, 8)]
            {
                check_maps(&emulator, rung, tokens, queries, width);
            }
        }
    }
}

/// A map does not depend on the images beside it.
#[test]
fn every_rung_gives_a_map_the_same_bits_in_any_batch() {
    let emulator = Emulator::new(&CXX, Settings::fast()).unwrap();
    let (tokens, width) = (17, 64);
    let qkv: Vec<bf16> = random(8 * tokens * 3 * width, 1.0, 0.2, 1);
    let d_o: Vec<bf16> = random(8 * tokens * width, 1.0, 0.0, 2);
    let maps = |rung: u32, batch: usize| {
        let dev_qkv = emulator.upload(&qkv[..batch * tokens * 3 * width]).unwrap();
        let dev_d_o = emulator.upload(&d_o[..batch * tokens * width]).unwrap();
        let maps = [0; 2].map(|_| emulator.unwritten::<f32>(batch * (tokens - 1)).unwrap());
        let [eclip, cam] = &maps;
        let (d_o, qkv) = (dev_d_o.address(), dev_qkv.address());
        let pass = GradEclip { map: eclip.address(), d_o, qkv, batch, tokens, queries: tokens, width, g: batch };
        run(&emulator, &pass, rung, bf16::STORAGE).unwrap();
        let pass = GradCam { map: cam.address(), dx: d_o, x: d_o, batch, tokens, width, g: batch };
        run(&emulator, &pass, rung, bf16::STORAGE).unwrap();
        maps.map(|map| map.download().unwrap())
    };
    for rung in 1..=GradEclip::TOP {
        let all = maps(rung, 8);
        for batch in [1, 3] {
            for (some, all) in maps(rung, batch).iter().zip(&all) {
                assert_eq!(some, &all[..some.len()]);
            }
        }
    }
}

/// Every way to draw, with a crop's region inside of the picture and beyond its edge.
#[test]
fn pictures_are_drawn_as_the_processor_draws_them() {
    checked().for_each(|emulator| draw(&emulator));
}

fn draw(emulator: &Emulator) {
    let (height, width, rows, cols, g) = (19, 26, 3, 4, 2);
    let picture = Rgb8 { width, height, data: bytes(height * width * 3, 1) };
    let maps: Vec<f32> = random(g * rows * cols, 2.0, 0.3, 2);
    let regions = [(0.0, 0.0, 26.0, 19.0), (3.3, 1.0, 17.0, 15.5), (-4.0, 2.0, 20.0, 30.0)];
    let kernels = [image::Upsample::Bilinear, image::Upsample::Nearest, image::Upsample::Bicubic];
    let dev_picture = emulator.upload(&picture.data).unwrap();
    let dev_maps = emulator.upload(&maps).unwrap();
    for ((left, top, w, h), upsample) in regions.into_iter().zip(kernels) {
        let region = Rect { left, top, width: w, height: h };
        let (x, y) = (Axis::new(cols, left, w, width, upsample), Axis::new(rows, top, h, height, upsample));
        let inner = (y.pixels.len(), x.pixels.len());
        let ((x_taps, count), (y_taps, _)) = (taps(&x), taps(&y));
        let [x_taps, y_taps] = [&x_taps, &y_taps].map(|taps| emulator.upload(taps).unwrap());
        let values = emulator.unwritten::<f32>(g * inner.0 * inner.1).unwrap();
        let pass = Upsample {
            values: values.address(),
            map: dev_maps.address(),
            x_taps: x_taps.address(),
            y_taps: y_taps.address(),
            taps: count,
            g,
            rows,
            cols,
            height: inner.0,
            width: inner.1,
        };
        run(emulator, &pass, 1, launch::Storage::Bf16).unwrap();
        if inner == (height, width) {
            for (map, values) in maps.chunks(rows * cols).zip(values.download().unwrap().chunks(height * width)) {
                assert_eq!(image::upsample(map, rows, cols, height, width, upsample).unwrap(), values);
            }
        }
        for (colormap, alpha, fade) in
            [(Colormap::Turbo, 0.5, 1.0), (Colormap::Viridis, 0.37, 0.6), (Colormap::RdBu, 0.7, 0.9)]
        {
            // The second map on a flat scale.
            let scales = [Scale { min: -1.3, max: 1.3 }, Scale { min: 0.25, max: 0.25 }];
            let flat: Vec<f32> = scales.iter().flat_map(|s| [s.min, s.max]).collect();
            let (scale, table) =
                (emulator.upload(&flat).unwrap(), emulator.upload(colormap.table().as_flattened()).unwrap());
            let out = emulator.unwritten::<u8>(g * height * width * 3).unwrap();
            let pass = Colour {
                out: out.address(),
                values: values.address(),
                picture: dev_picture.address(),
                scale: scale.address(),
                table: table.address(),
                colormap,
                alpha,
                fade,
                corner: (y.pixels.start, x.pixels.start),
                inner,
                g,
                height,
                width,
            };
            run(emulator, &pass, 1, launch::Storage::Bf16).unwrap();
            for ((map, scale), drawn) in
                maps.chunks(rows * cols).zip(scales).zip(out.download().unwrap().chunks(height * width * 3))
            {
                let region = Some(region);
                let options = OverlayOptions {
                    colormap,
                    alpha,
                    fade,
                    scale: Some(scale),
                    upsample,
                    region,
                    ..OverlayOptions::default()
                };
                let exact = image::blend(&picture, map, rows, cols, &options).unwrap();
                assert!(exact.data == drawn, "{colormap:?} {upsample:?} {region:?}");
            }
        }
    }
}

#[test]
fn rung_2_serves_whole_vectors_that_fit_shared_memory() {
    let served = |tokens, width| {
        let target = launch::Target { storage: launch::Storage::F16, architecture: 80 };
        let eclip = GradEclip { map: 0, d_o: 0, qkv: 0, batch: 1, tokens, queries: 1, width, g: 1 };
        let cam = GradCam { map: 0, dx: 0, x: 0, batch: 1, tokens, width, g: 1 };
        (eclip.launches(2, target).is_some(), cam.launches(2, target).is_some())
    };
    assert_eq!(served(577, 1024), (true, true));
    assert_eq!(served(577, 1028), (false, false));
    assert_eq!(served(5000, 1024), (false, true));
}
