//! Exact top-k: ordered by value descending, then index ascending. NaN is smaller than every number and never chosen.

use std::cmp::Ordering;

use super::Real;

/// The indices of the `k` largest values, largest first.
pub fn top_k<T: Real>(values: &[T], k: usize) -> impl Iterator<Item = usize> {
    let before = |&a: &u32, &b: &u32| -> Ordering {
        let (x, y) = (values[a as usize], values[b as usize]);
        y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(&b))
    };
    let mut order: Vec<u32> = (0..values.len() as u32).filter(|&i| !values[i as usize].is_nan()).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable_by(before);
    order.into_iter().map(|i| i as usize)
}

#[cfg(test)]
mod tests {
    use super::top_k;

    fn all(values: &[f32], k: usize) -> Vec<usize> {
        top_k(values, k).collect()
    }

    #[test]
    fn ties_go_to_the_smaller_index() {
        assert_eq!(all(&[1.0, 3.0, 3.0, 2.0, 3.0], 2), [1, 2]);
        assert_eq!(all(&[0.0; 6], 4), [0, 1, 2, 3]);
    }

    #[test]
    fn edges() {
        assert_eq!(all(&[-3.0, -1.0, -2.0], 2), [1, 2]);
        assert_eq!(all(&[2.0, 1.0], 5), [0, 1]);
        assert_eq!(all(&[f32::NAN, 1.0, f32::NEG_INFINITY, f32::INFINITY], 4), [3, 1, 2]);
    }
}
