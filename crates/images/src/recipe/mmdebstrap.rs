//! The command line of the builder.

use super::{Architecture, Build, Recipe};

impl Recipe {
    /// What to give to `mmdebstrap`, without the program's name. It writes the tree as a tar archive to its output.
    ///
    /// It runs as root of a user namespace: it can chroot there and mount `/proc`, but cannot make device nodes (it then
    /// binds those of the host, which needs a mount namespace of its own).
    pub fn mmdebstrap_arguments(&self, architecture: Architecture) -> Vec<String> {
        let (suite, sources) = match &self.build {
            Build::Mmdebstrap(build) => (&build.suite, &build.sources),
            Build::DebianPackage(build) => (&build.suite, &build.sources),
        };
        let mut arguments = vec![
            "--mode=root".to_owned(),
            "--format=tar".to_owned(),
            // The log of a failed build is all that there is to look at.
            "--verbose".to_owned(),
            format!("--architectures={}", architecture.debian_name()),
            // Not the host's trusted keys: these and no others.
            format!("--keyring={}", self.keyring()),
            "--aptopt=Dir::Etc::TrustedParts \"/nonexistent/\"".to_owned(),
            "--aptopt=Acquire::Languages \"none\"".to_owned(),
            // A mirror that answers no more must not hold the image's actor for ever.
            "--aptopt=Acquire::http::Timeout \"30\"".to_owned(),
            "--aptopt=Acquire::Retries \"3\"".to_owned(),
            "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
            // The tree lives for half a minute: no fsync per file.
            "--dpkgopt=force-unsafe-io".to_owned(),
        ];
        match &self.build {
            Build::Mmdebstrap(build) => {
                arguments.push(format!("--variant={}", build.variant));
                let excluded = build.path_exclude.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}"));
                let included = build.path_include.iter().map(|pattern| format!("--dpkgopt=path-include={pattern}"));
                arguments.extend(excluded.chain(included));
                if build.merged_usr {
                    arguments.push("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr".to_owned());
                }
                if !build.include.is_empty() {
                    arguments.push(format!("--include={}", build.include.join(",")));
                }
                // mmdebstrap gives hooks to `sh`; the alphabet of `run` leaves that nothing to interpret.
                arguments.extend(build.run.iter().map(|line| format!("--customize-hook=chroot \"$1\" {line}")));
            }
            Build::DebianPackage(build) => {
                // Download, check and extract; configure nothing.
                arguments.push("--variant=extract".to_owned());
                arguments.push(format!("--include={}", build.packages.join(",")));
            }
        }
        arguments.extend([suite.clone(), "-".to_owned()]);
        arguments.extend(sources.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_each_recipe_is_what_was_tried() {
        for recipe in Recipe::built_in().expect("ours") {
            let arguments = recipe.mmdebstrap_arguments(Architecture::X86_64);
            let position = arguments.iter().position(|argument| argument == "-").expect("the output");
            assert!(arguments[..position - 1].iter().all(|argument| argument.starts_with("--")), "{arguments:?}");
            assert!(arguments[position + 1..].iter().all(|argument| argument.starts_with("deb http")));
            assert!(arguments.contains(&"--architectures=amd64".to_owned()));
            assert!(arguments.iter().any(|argument| argument.starts_with("--keyring=/usr/share/keyrings/debian")));
        }
    }
}
