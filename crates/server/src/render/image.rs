//! Images: those that are here, and recipes that could be built.

use engine::{Alias, Engine, ImageChoice};
use sysctl_api::{Image, ImageAlias, ImageAliasEntry};

use super::{time_ms, time_s};

/// An image, with the aliases that point to it.
pub(crate) fn image(engine: &Engine, choice: &ImageChoice) -> Image {
    let fingerprint = choice.fingerprint();
    let aliases = engine.aliases().into_iter().filter(|alias| alias.target == fingerprint);
    let common = Image {
        properties: choice.properties().clone(),
        aliases: aliases.map(|a| ImageAlias { name: a.name, description: a.description }).collect(),
        architecture: choice.architecture().to_owned(),
        fingerprint: fingerprint.to_string(),
        kind: "container".into(),
        profiles: vec!["default".into()],
        project: "default".into(),
        expires_at: time_s(0),
        created_at: time_s(0),
        last_used_at: time_s(0),
        uploaded_at: time_s(0),
        ..Image::default()
    };
    match choice {
        ImageChoice::Recipe(_) => common,
        ImageChoice::Here(record) => Image {
            public: record.public,
            cached: record.facts.recipe.is_some(),
            filename: record.facts.filename.clone(),
            size: record.facts.size as i64,
            expires_at: time_s(record.facts.expires_at),
            created_at: time_s(record.facts.created_at),
            last_used_at: time_ms(record.last_used_ms),
            uploaded_at: time_ms(record.uploaded_ms),
            ..common
        },
    }
}

/// An alias.
pub(crate) fn alias(alias: &Alias) -> ImageAliasEntry {
    ImageAliasEntry {
        description: alias.description.clone(),
        target: alias.target.to_string(),
        name: alias.name.clone(),
        kind: "container".into(),
    }
}
