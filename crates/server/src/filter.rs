//! Filters of listings: `status eq running and config.user.x eq y`, as LXD's API has them.

use serde_json::Value;

use crate::error::ApiError;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    path: Vec<String>,
    equal: bool,
    value: String,
}

/// Comparisons joined by `and` and `or`; `and` binds tighter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    any: Vec<Vec<Clause>>,
}

/// Most comparisons of one filter.
const MAX_CLAUSES: usize = 64;

impl Filter {
    /// Reads a filter; `None` or an empty one lets everything through.
    pub(crate) fn parse(text: Option<&str>) -> Result<Filter, ApiError> {
        let words = split(text.unwrap_or_default())?;
        if words.is_empty() {
            return Ok(Filter::default());
        }
        let invalid = || ApiError::bad("Invalid filter: FIELD eq|ne VALUE, joined by and/or, is expected");
        let (mut any, mut all) = (Vec::new(), Vec::new());
        let mut rest = words.as_slice();
        loop {
            let [field, operator, value, tail @ ..] = rest else { return Err(invalid()) };
            let equal = match operator.as_str() {
                "eq" => true,
                "ne" => false,
                _ => return Err(invalid()),
            };
            all.push(Clause { path: field.split('.').map(str::to_owned).collect(), equal, value: value.clone() });
            match tail {
                [] => break,
                [word, tail @ ..] if word == "and" && any.len() + all.len() < MAX_CLAUSES => rest = tail,
                [word, tail @ ..] if word == "or" && any.len() + all.len() < MAX_CLAUSES => {
                    any.push(std::mem::take(&mut all));
                    rest = tail;
                }
                _ => return Err(invalid()),
            }
        }
        any.push(all);
        Ok(Filter { any })
    }

    /// Everything gets through.
    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_empty()
    }

    /// Whether an object gets through.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.is_empty() || self.any.iter().any(|all| all.iter().all(|clause| clause.matches(object)))
    }
}

impl Clause {
    fn matches(&self, object: &Value) -> bool {
        let found = find(object, &self.path);
        let same = match found {
            Some(Value::String(text)) => text.eq_ignore_ascii_case(&self.value),
            Some(Value::Bool(flag)) => self.value == flag.to_string(),
            Some(Value::Number(number)) => self.value == number.to_string(),
            _ => false,
        };
        same == self.equal
    }
}

/// A value by path. Configuration keys have dots in them, so the longest key that fits is taken.
fn find<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(object);
    }
    (1..=path.len()).rev().find_map(|length| {
        let inner = object.get(path[..length].join("."))?;
        find(inner, &path[length..])
    })
}

/// Words, with double quotes around those that have spaces.
fn split(text: &str) -> Result<Vec<String>, ApiError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').ok_or_else(|| ApiError::bad("Invalid filter: a quote is not closed"))?
            }
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(filter: &str) -> bool {
        let object =
            json!({"status": "Running", "ephemeral": false, "config": {"user.team": "a b", "limits.cpu": "2"}});
        Filter::parse(Some(filter)).expect(filter).matches(&object)
    }

    #[test]
    fn objects_are_compared_by_fields_and_keys() {
        for yes in [
            "",
            "status eq running",
            "status ne stopped",
            "ephemeral eq false and config.limits.cpu eq 2",
            "status eq stopped or config.user.team eq \"a b\"",
            "missing ne x",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in
            ["status eq stopped", "config.limits.cpu eq 3", "missing eq x", "status eq running and ephemeral eq true"]
        {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wrong in ["status", "status is running", "a eq b c", "a eq \"b", "a eq b and"] {
            assert!(Filter::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
