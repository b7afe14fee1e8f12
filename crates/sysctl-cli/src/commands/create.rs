//! `launch` and `create`.

use clap::Args as Words;
use sysctl_api::{Devices, InstanceSource, InstancesPost, Operation};

use super::devices::{Override, Wanted};
use crate::args::key_value;
use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output;

/// Words of `launch` and `create`.
#[derive(Debug, Words)]
#[command(
    after_help = "Images that are known everywhere: debian, debian/12, busybox. sysctl-cli image alias list shows \
    all.\n\nExample: sysctl-cli launch debian web1 -c limits.memory=512MiB -d eth0,ipv4.address=10.0.0.9"
)]
pub(crate) struct Args {
    /// Alias or fingerprint of an image
    image: String,
    /// Name; one is made up when it is left out
    name: Option<String>,
    /// Key of the instance
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Whose namespace of a kind: KIND=private, host, instance:NAME or path:FILE; alone, the name of a preset
    #[arg(long, value_name = "KIND=WHOSE", value_parser = grain)]
    ns: Vec<(String, String)>,
    /// Profile, instead of "default"; several are laid over one another
    #[arg(short, long, value_name = "NAME")]
    profile: Vec<String>,
    /// No profile at all
    #[arg(long, conflicts_with = "profile")]
    no_profiles: bool,
    /// Device, over what the profiles say
    #[arg(short, long, value_name = "NAME,KEY=VALUE…")]
    device: Vec<Override>,
    /// Network of eth0
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    /// Storage pool of the root
    #[arg(short, long, value_name = "POOL")]
    storage: Option<String>,
    /// Delete it when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Words about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Tell the steps without doing them
    #[arg(long)]
    plan: bool,
}

/// `net=host` as a key; `sidecar:db1` alone is a preset.
fn grain(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err("KIND=WHOSE is expected, or the name of a preset".to_owned()),
        Some((kind, whose)) => Ok((format!("namespaces.{kind}"), whose.to_owned())),
        None => Ok(("namespaces.preset".to_owned(), text.to_owned())),
    }
}

impl Args {
    fn profiles(&self) -> Option<Vec<String>> {
        match (self.no_profiles, self.profile.is_empty()) {
            (true, _) => Some(Vec::new()),
            (false, true) => None,
            (false, false) => Some(self.profile.clone()),
        }
    }

    fn post(self, devices: Devices, start: bool) -> InstancesPost {
        InstancesPost {
            profiles: self.profiles(),
            config: self.config.into_iter().chain(self.ns).collect(),
            devices,
            ephemeral: self.ephemeral,
            description: self.description.unwrap_or_default(),
            name: self.name.unwrap_or_default(),
            source: InstanceSource { kind: "image".into(), alias: self.image, ..InstanceSource::default() },
            kind: "container".into(),
            start,
            ..InstancesPost::default()
        }
    }
}

pub(crate) async fn run(cx: &Context, args: Args, start: bool) -> Result {
    let (verb, action) = if start { ("launch", "launched") } else { ("create", "created") };
    let attempt = match &args.name {
        Some(name) => format!("{verb} instance {name:?} from image {:?}", args.image),
        None => format!("{verb} an instance from image {:?}", args.image),
    };
    let devices = devices(cx, &args, &attempt).await?;
    let (plan, unnamed) = (args.plan, args.name.is_none());
    let post = args.post(devices, start);
    if plan {
        return cx.plan(&cx.client.plan_create_instance(&post).await.attempt(|| attempt)?);
    }
    let operation = cx.client.create_instance(&post).await.attempt(|| attempt.clone()).map_err(|failure| {
        let known = "sysctl-cli image alias list shows the images that are known.";
        if failure.says("mage") && failure.code() == crate::failure::NOT_FOUND {
            failure.with_hint(known)
        } else {
            failure
        }
    })?;
    let name = name_of(&operation).unwrap_or(post.name);
    cx.finish(&operation, || attempt).await?;
    if cx.quiet && unnamed && cx.format.is_none() {
        return output::text(&format!("{name}\n"));
    }
    cx.report(&[Done { action, kind: "instance", name, operation: operation.id }])
}

/// Name of the instance that an operation is about.
fn name_of(operation: &Operation) -> Option<String> {
    let path = operation.resources.get("instances")?.first()?;
    path.split('?').next()?.rsplit('/').next().map(str::to_owned)
}

/// The instance's own devices.
async fn devices(cx: &Context, args: &Args, attempt: &str) -> Result<Devices> {
    let wanted =
        Wanted { overrides: args.device.clone(), network: args.network.clone(), storage: args.storage.clone() };
    let mut inherited = Devices::new();
    if wanted.needs_profiles() {
        for name in args.profiles().unwrap_or_else(|| vec!["default".into()]) {
            let profile = cx.client.get_profile(&name).await.attempt(|| format!("look at profile {name:?}"))?;
            inherited.extend(profile.value.devices);
        }
    }
    wanted.resolve(&inherited).map_err(|cause| Failure::new(attempt, cause).with_code(2))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::commands::Command;

    fn args(words: &str) -> Args {
        let words = ["sysctl-cli", "launch"].into_iter().chain(words.split(' '));
        match Cli::try_parse_from(words).expect("words").command {
            Command::Launch(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_become_the_request() {
        let words = "debian/12 web1 -c limits.cpu=2 -c user.a=b=c -p default -p web -e --description x";
        let post = args(words).post(Devices::new(), true);
        assert_eq!((post.name.as_str(), post.source.alias.as_str()), ("web1", "debian/12"));
        assert_eq!(post.config["user.a"], "b=c");
        assert_eq!(post.profiles, Some(vec!["default".to_owned(), "web".to_owned()]));
        assert!(post.start && post.ephemeral);
    }

    #[test]
    fn no_profile_and_the_default_one_are_told_apart() {
        assert_eq!(args("busybox").profiles(), None);
        assert_eq!(args("busybox --no-profiles").profiles(), Some(Vec::new()));
        assert!(Cli::try_parse_from(["sysctl-cli", "launch", "x", "--no-profiles", "-p", "y"]).is_err());
    }

    #[test]
    fn the_made_up_name_is_taken_from_the_operation() {
        let resources = [("instances".to_owned(), vec!["/1.0/instances/fast-fox?project=p".to_owned()])].into();
        assert_eq!(name_of(&Operation { resources, ..Operation::default() }).as_deref(), Some("fast-fox"));
    }
}
