//! Typed access to one section of a JSON configuration, with errors that name file, section and key.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// One object of a configuration. A key that is absent or null takes its default.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    section: &'a str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The section `value`, called `section` in messages; `None` and null read as an empty one.
    pub fn new(path: &'a Path, section: &'a str, value: Option<&'a Value>) -> Result<Self> {
        let map = match value {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(other) => return Err(Error::file(path, format!("{section} is {}, not an object", brief(other)))),
        };
        Ok(Fields { path, section, map })
    }

    /// The value of a key, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|v| !v.is_null())
    }

    /// All keys whose value is neither null nor false nor empty.
    pub fn set_keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        self.map.into_iter().flatten().filter(move |(_, v)| !off(v)).map(|(k, _)| k.as_str())
    }

    /// A nested section.
    pub fn section(&self, key: &'a str) -> Result<Fields<'a>> {
        Fields::new(self.path, key, self.get(key))
    }

    /// A count.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A count, also written as a list of equal counts: `224` or `[224, 224]`.
    pub fn square(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number, or two equal ones", |v| {
            let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
            match v {
                Value::Array(sides) => {
                    let (first, second) = (number(sides.first()?)?, number(sides.get(1)?)?);
                    (sides.len() == 2 && first == second).then_some(first)
                }
                one => number(one),
            }
        })
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a text", Value::as_str)
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// An error about a key of this section.
    pub fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("{}{key} {reason}", self.prefix()))
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.wrong(key, format!("is {}, not {expected}", brief(value)))),
        }
    }

    fn prefix(&self) -> String {
        if self.section.is_empty() { String::new() } else { format!("{}.", self.section) }
    }
}

/// A value in a message: whole if short.
pub(super) fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}...", text.chars().take(60).collect::<String>()) }
}
