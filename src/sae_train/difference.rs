//! What two records differ in, for messages.

use serde_json::{Map, Value};

/// The first place where `now` differs from `then`, with both values; `None` where they are the same.
pub fn first_difference(then: &Value, now: &Value) -> Option<String> {
    differ("", then, now)
}

fn differ(path: &str, then: &Value, now: &Value) -> Option<String> {
    if then == now {
        return None;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            let get = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
            keys(a).into_iter().chain(keys(b)).find_map(|key| differ(&below(&key), &get(a, &key), &get(b, &key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| differ(&below(&i.to_string()), a, b))
        }
        _ => Some(format!("{path} was {then}, now {now}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named_with_its_place() {
        let a = json!({ "model": { "name": "a", "hash": "1" }, "layers": [1, 2], "k": null });
        assert_eq!(first_difference(&a, &a), None);
        let mut b = a.clone();
        b["layers"][1] = 3.into();
        assert_eq!(first_difference(&a, &b).unwrap(), "layers.1 was 2, now 3");
        b["model"]["hash"] = "2".into();
        assert_eq!(first_difference(&a, &b).unwrap(), "model.hash was \"1\", now \"2\"");
        assert_eq!(first_difference(&json!({}), &json!({ "x": 1 })).unwrap(), "x was null, now 1");
        assert_eq!(first_difference(&json!([1]), &json!([1, 2])).unwrap(), " was [1], now [1,2]");
    }
}
