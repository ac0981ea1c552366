//! How far two maps are apart.

/// Measures between the map before and the map after an edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapChange {
    /// Sum of absolute differences.
    pub l1: f64,
    /// Root of the sum of squared differences.
    pub l2: f64,
    /// Correlation; none where a map is constant.
    pub pearson: Option<f64>,
    /// Overlap of the highest tenth of the cells: intersection over union.
    pub iou_top10: f64,
}

impl MapChange {
    /// Of two maps of one size.
    pub fn between(before: &[f64], after: &[f64]) -> Self {
        let pairs = || before.iter().zip(after).map(|(&a, &b)| (a, b));
        let (top_before, top_after) = (top_tenth(before), top_tenth(after));
        let common = top_before.iter().filter(|cell| top_after.contains(cell)).count();
        let union = top_before.len() + top_after.len() - common;
        MapChange {
            l1: pairs().map(|(a, b)| (b - a).abs()).sum(),
            l2: pairs().map(|(a, b)| (b - a).powi(2)).sum::<f64>().sqrt(),
            pearson: pearson(&pairs().collect::<Vec<_>>()),
            iou_top10: common as f64 / union.max(1) as f64,
        }
    }
}

fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let (mean_a, mean_b) = (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    let spread = (aa * bb).sqrt();
    (spread > 0.0).then(|| (ab / spread).clamp(-1.0, 1.0))
}

/// The highest tenth of the cells, rounded up; ties to the lower index.
fn top_tenth(map: &[f64]) -> std::collections::HashSet<usize> {
    let mut cells: Vec<usize> = (0..map.len()).collect();
    cells.sort_by(|&a, &b| map[b].total_cmp(&map[a]));
    cells.truncate(map.len().div_ceil(10));
    cells.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_map_is_no_change_and_a_reversed_one_is_a_full_one() {
        let map: Vec<f64> = (0..20).map(f64::from).collect();
        let same = MapChange::between(&map, &map);
        assert_eq!(same, MapChange { l1: 0.0, l2: 0.0, pearson: Some(1.0), iou_top10: 1.0 });
        let back: Vec<f64> = map.iter().rev().copied().collect();
        let reversed = MapChange::between(&map, &back);
        assert_eq!((reversed.pearson, reversed.iou_top10), (Some(-1.0), 0.0));
        assert_eq!((reversed.l1, reversed.l2), (200.0, 2660f64.sqrt()));
        assert_eq!(MapChange::between(&map, &[1.0; 20]).pearson, None);
        // The two highest of twenty: {19, 18} and {19, 0}.
        let mut one = map.clone();
        one[0] = 18.5;
        assert_eq!(MapChange::between(&map, &one).iou_top10, 1.0 / 3.0);
    }
}
