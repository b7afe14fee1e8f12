//! Words of a listing that say which instances are wanted.

/// Which instances are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// For the server: comparisons joined by `and`.
    pub(crate) query: String,
    /// Beginnings of names; empty is all.
    names: Vec<String>,
}

/// Fields that the server compares as they are; everything else is a key of the configuration.
const FIELDS: [&str; 9] =
    ["name", "status", "type", "architecture", "ephemeral", "project", "description", "location", "profiles"];

impl Filter {
    /// Reads words: `KEY=VALUE`, or the beginning of a name.
    pub(crate) fn parse(words: &[String]) -> Result<Filter, String> {
        let mut filter = Filter::default();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                filter.names.push(word.clone());
                continue;
            };
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
                return Err(format!("{word:?}: KEY=VALUE or the beginning of a name is expected"));
            }
            if value.contains('"') {
                return Err(format!("{word:?}: values with quotes cannot be compared"));
            }
            let first = key.split('.').next().unwrap_or_default();
            let as_it_is = FIELDS.contains(&key) || ["config", "expanded_config", "devices", "state"].contains(&first);
            let field = if as_it_is { key.to_owned() } else { format!("expanded_config.{key}") };
            if !filter.query.is_empty() {
                filter.query.push_str(" and ");
            }
            filter.query.push_str(&format!("{field} eq \"{value}\""));
        }
        Ok(filter)
    }

    /// Whether a name is wanted.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|beginning| name.starts_with(beginning.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Filter, String> {
        Filter::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn comparisons_go_to_the_server_and_names_stay_here() {
        let filter = parse(&["status=running", "limits.cpu=2", "user.team=a b", "web", "db1"]).expect("a filter");
        assert_eq!(
            filter.query,
            "status eq \"running\" and expanded_config.limits.cpu eq \"2\" and expanded_config.user.team eq \"a b\""
        );
        assert!(filter.has("web7") && filter.has("db1") && !filter.has("cache"));
        assert!(parse(&[]).expect("no filter").has("anything"));
    }

    #[test]
    fn what_the_server_could_not_read_is_refused() {
        for wrong in ["=x", "a b=c", "a=\"b\"", "\"=x"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
