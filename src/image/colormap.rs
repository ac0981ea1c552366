//! Colour maps of 256 entries.
//!
//! `viridis`, `inferno` and `magma` are matplotlib's maps by Stéfan van der Walt and Nathaniel Smith (CC0), `turbo` is
//! Anton Mikhailov's (Google, Apache-2.0). Each is given by 33 evenly spaced colours with straight lines between
//! them, which is within 2 of 255 levels of the published table. `rdbu` and `jet` are computed.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A colour map. All but [`Colormap::Jet`] are perceptual: their lightness has no false edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Colormap {
    /// Blue, green, yellow, red: a rainbow without jet's false edges.
    #[default]
    Turbo,
    /// Violet to yellow.
    Viridis,
    /// Black, violet, orange, light yellow.
    Inferno,
    /// Black, violet, pink, light yellow.
    Magma,
    /// For signed values: blue below zero, near white at zero, red above.
    RdBu,
    /// The classic rainbow, only to compare with other tools.
    Jet,
}

impl Colormap {
    /// All maps.
    pub const ALL: [Colormap; 6] =
        [Colormap::Turbo, Colormap::Viridis, Colormap::Inferno, Colormap::Magma, Colormap::RdBu, Colormap::Jet];

    /// The name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Colormap::Turbo => "turbo",
            Colormap::Viridis => "viridis",
            Colormap::Inferno => "inferno",
            Colormap::Magma => "magma",
            Colormap::RdBu => "rdbu",
            Colormap::Jet => "jet",
        }
    }

    /// Whether the map's middle means zero.
    pub fn is_diverging(self) -> bool {
        self == Colormap::RdBu
    }

    /// The 256 colours from the lowest value to the highest.
    pub fn table(self) -> [[u8; 3]; 256] {
        let between: fn(f64) -> [f64; 3] = match self {
            Colormap::Turbo => |t| along(&TURBO, t),
            Colormap::Viridis => |t| along(&VIRIDIS, t),
            Colormap::Inferno => |t| along(&INFERNO, t),
            Colormap::Magma => |t| along(&MAGMA, t),
            Colormap::RdBu => diverging,
            Colormap::Jet => |t| [3.0, 2.0, 1.0].map(|peak| 255.0 * (1.5 - (4.0 * t - peak).abs()).clamp(0.0, 1.0)),
        };
        std::array::from_fn(|i| between(i as f64 / 255.0).map(|v| v.round() as u8))
    }
}

impl fmt::Display for Colormap {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Colormap {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Colormap::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let known = Colormap::ALL.map(Colormap::name).join(", ");
            Error::usage(format!("unknown colour map `{name}`; known: {known}"))
        })
    }
}

/// The point `t` in 0..1 of a line through evenly spaced colours.
fn along(points: &[u32; 33], t: f64) -> [f64; 3] {
    let at = t * 32.0;
    let i = (at as usize).min(31);
    let (low, high) = (points[i], points[i + 1]);
    [16, 8, 0].map(|shift| {
        let (a, b) = (f64::from(low >> shift & 255), f64::from(high >> shift & 255));
        a + (b - a) * (at - i as f64)
    })
}

/// Blue to near white to red, of the same lightness on both sides; built in Oklab (Björn Ottosson, 2020).
fn diverging(t: f64) -> [f64; 3] {
    let signed = 2.0 * t - 1.0;
    let size = signed.abs();
    let lightness = 0.97 - 0.57 * size.powf(1.15);
    // sRGB holds less saturated dark blues than reds.
    let (hue, most) = if signed > 0.0 { (25f64, 0.185) } else { (255f64, 0.135) };
    let (hue, chroma) = (hue.to_radians(), most * (size * 1.9).sin());
    oklab_to_srgb([lightness, chroma * hue.cos(), chroma * hue.sin()])
}

/// Oklab to sRGB in 0..255, clipped.
fn oklab_to_srgb([l, a, b]: [f64; 3]) -> [f64; 3] {
    let cube = |v: f64| v * v * v;
    let l_ = cube(l + 0.3963377774 * a + 0.2158037573 * b);
    let m_ = cube(l - 0.1055613458 * a - 0.0638541728 * b);
    let s_ = cube(l - 0.0894841775 * a - 1.2914855480 * b);
    let linear = [
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    ];
    linear.map(|v| {
        let v = v.clamp(0.0, 1.0);
        255.0 * if v <= 0.0031308 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 }
    })
}

const TURBO: [u32; 33] = [
    0x30123b, 0x392a73, 0x4040a1, 0x4456c7, 0x466be3, 0x467ff6, 0x4293ff, 0x37a7fa, 0x29bbec, 0x1dcdd8, 0x18dcc3,
    0x1ee8b0, 0x31f299, 0x4cf97e, 0x6bfd64, 0x8aff4d, 0xa3fd3c, 0xb8f735, 0xcced34, 0xdee037, 0xedd03a, 0xf8c03a,
    0xfdae35, 0xfe982c, 0xfb8022, 0xf56817, 0xec520f, 0xe04009, 0xd23105, 0xc02302, 0xac1701, 0x950d01, 0x7a0403,
];
const VIRIDIS: [u32; 33] = [
    0x440154, 0x470d60, 0x48186a, 0x482374, 0x472d7b, 0x453681, 0x424086, 0x3f4989, 0x3b528b, 0x375a8d, 0x33638d,
    0x2f6a8e, 0x2c728e, 0x297a8e, 0x26818e, 0x23898e, 0x21908c, 0x1f988b, 0x1f9f88, 0x21a685, 0x28ae80, 0x31b57b,
    0x3ebc74, 0x4cc26c, 0x5dc963, 0x6ece58, 0x82d34c, 0x96d83f, 0xabdc32, 0xc0df24, 0xd5e21a, 0xeae51a, 0xfde725,
];
const INFERNO: [u32; 33] = [
    0x000004, 0x040312, 0x0b0724, 0x150b37, 0x210c4a, 0x2e0a5a, 0x3c0965, 0x4a0c6b, 0x57106d, 0x63146e, 0x70196e,
    0x7d1e6d, 0x89226a, 0x962766, 0xa32b61, 0xaf315c, 0xbb3755, 0xc63e4d, 0xd14644, 0xdb4f3b, 0xe35932, 0xeb6528,
    0xf1711e, 0xf67f14, 0xf98d0a, 0xfb9c06, 0xfcab0f, 0xfbba1f, 0xf9ca32, 0xf5d949, 0xf2e865, 0xf3f586, 0xfcffa4,
];
const MAGMA: [u32; 33] = [
    0x000004, 0x030311, 0x0a0822, 0x130d33, 0x1d1146, 0x28115a, 0x36106a, 0x430f76, 0x50127c, 0x5d177f, 0x691c81,
    0x762181, 0x822681, 0x8f2a81, 0x9c2e7f, 0xa9327d, 0xb63779, 0xc33b75, 0xcf4170, 0xdb486a, 0xe65163, 0xee5c5e,
    0xf5695c, 0xf9785d, 0xfb8761, 0xfd9668, 0xfea571, 0xfeb47b, 0xfec387, 0xfed194, 0xfde0a2, 0xfceeb0, 0xfcfdbf,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn luma(c: [u8; 3]) -> f64 {
        0.2126 * f64::from(c[0]) + 0.7152 * f64::from(c[1]) + 0.0722 * f64::from(c[2])
    }

    #[test]
    fn the_published_ends_are_met() {
        assert_eq!((Colormap::Viridis.table()[0], Colormap::Viridis.table()[255]), ([68, 1, 84], [253, 231, 37]));
        assert_eq!((Colormap::Turbo.table()[0], Colormap::Turbo.table()[255]), ([48, 18, 59], [122, 4, 3]));
        assert_eq!((Colormap::Jet.table()[0], Colormap::Jet.table()[255]), ([0, 0, 128], [128, 0, 0]));
    }

    #[test]
    fn sequential_maps_only_grow_lighter_and_the_signed_one_is_lightest_at_zero() {
        for map in [Colormap::Viridis, Colormap::Inferno, Colormap::Magma] {
            assert!(map.table().windows(2).all(|w| luma(w[1]) >= luma(w[0]) - 1.0), "{map}");
        }
        let table = Colormap::RdBu.table();
        assert!(table[..128].windows(2).all(|w| luma(w[1]) >= luma(w[0])));
        assert!(table[128..].windows(2).all(|w| luma(w[1]) <= luma(w[0])));
        assert!(table[0][2] > table[0][0] && table[255][0] > table[255][2]);
    }

    #[test]
    fn names_round_trip_and_an_unknown_one_lists_them() {
        for map in Colormap::ALL {
            assert_eq!(map.name().parse::<Colormap>().unwrap(), map);
        }
        assert!("hot".parse::<Colormap>().unwrap_err().to_string().contains("turbo, viridis"));
    }
}
