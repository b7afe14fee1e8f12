//! `image`.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use clap::{Args as Words, Subcommand};
use sysctl_client::{ImageUpload, ImageWords, ListOptions, Reader};
use tokio::io::{AsyncRead, ReadBuf};

use super::image_alias;
use super::list::{bytes, time};
use crate::args::key_value;
use crate::context::{Context, Done};
use crate::failure::{Attempt, Failure, Result};
use crate::output::{Cell, Table};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List images that are here
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Send an image to the daemon
    Import(ImportArgs),
    /// Tell about an image
    #[command(visible_alias = "show")]
    Info(ImageArgs),
    /// Delete images
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Build an image from one of the daemon's recipes
    Build(BuildArgs),
    /// Names of images
    #[command(subcommand)]
    Alias(image_alias::Command),
}

/// Words of `image list`.
#[derive(Debug, Words)]
pub(crate) struct ListArgs {
    /// Like: properties.os eq Debian
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

/// Words of `image info`.
#[derive(Debug, Words)]
pub(crate) struct ImageArgs {
    /// Alias or fingerprint
    image: String,
}

/// Words of `image delete`.
#[derive(Debug, Words)]
pub(crate) struct DeleteArgs {
    /// Aliases or fingerprints
    #[arg(required = true)]
    images: Vec<String>,
}

/// Words of `image build`.
#[derive(Debug, Words)]
pub(crate) struct BuildArgs {
    /// Name of the recipe, like debian/12
    recipe: String,
    /// Another name that it gets
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
}

/// Words of `image import`.
#[derive(Debug, Words)]
pub(crate) struct ImportArgs {
    /// An archive with all; or the one with the metadata
    file: PathBuf,
    /// The root, when the first is only the metadata
    rootfs: Option<PathBuf>,
    /// Name that it gets
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Property, over those in its metadata
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    property: Vec<(String, String)>,
    /// SHA-256 that it must have
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Everybody may have it
    #[arg(long)]
    public: bool,
}

pub(crate) async fn run(cx: &Context, command: Command) -> Result {
    match command {
        Command::List(args) => list(cx, args).await,
        Command::Import(args) => import(cx, args).await,
        Command::Info(args) => {
            let fingerprint = fingerprint(cx, &args.image).await?;
            let attempt = || format!("look at image {:?}", args.image);
            cx.object(&cx.client.get_image(&fingerprint).await.attempt(attempt)?.value)
        }
        Command::Delete(args) => cx.each(&args.images, |image| delete(cx, image)).await,
        Command::Build(args) => build(cx, args).await,
        Command::Alias(command) => image_alias::run(cx, command).await,
    }
}

async fn list(cx: &Context, args: ListArgs) -> Result {
    let options = ListOptions { filter: args.filter.join(" "), all_projects: false };
    let images = cx.client.get_images(&options).await.attempt(|| "list images".into())?;
    cx.list(&images, || {
        let mut table = Table::new(["ALIAS", "FINGERPRINT", "DESCRIPTION", "ARCHITECTURE", "SIZE", "UPLOADED"]);
        for image in &images {
            let aliases: Vec<String> = image.aliases.iter().map(|alias| alias.name.clone()).collect();
            let short: String = image.fingerprint.chars().take(12).collect();
            let description = image.properties.get("description").cloned().unwrap_or_default();
            let (size, uploaded) = (bytes(image.size), time(&image.uploaded_at));
            let architecture = Cell::from(&image.architecture);
            table.row([aliases.into(), short.into(), description.into(), architecture, size.into(), uploaded.into()]);
        }
        table
    })
}

/// The fingerprint that an alias stands for; any other word is taken for a fingerprint itself.
pub(super) async fn fingerprint(cx: &Context, word: &str) -> Result<String> {
    match cx.client.get_image_alias(word).await {
        Ok(alias) => Ok(alias.value.target),
        Err(error) if error.status() == Some(404) => Ok(word.to_owned()),
        Err(error) => Err(Failure::of(format!("look at image {word:?}"), &error)),
    }
}

async fn delete(cx: &Context, image: String) -> Result<Done> {
    let attempt = || format!("delete image {image:?}");
    let fingerprint = fingerprint(cx, &image).await?;
    let operation = cx.client.delete_image(&fingerprint).await.attempt(attempt)?;
    cx.finish(&operation, attempt).await?;
    Ok(Done { action: "deleted", kind: "image", name: image, operation: operation.id })
}

async fn build(cx: &Context, args: BuildArgs) -> Result {
    let attempt = || format!("build image {:?}", args.recipe);
    let operation = cx.client.build_image(&args.recipe, &args.alias).await.attempt(attempt)?;
    cx.finish(&operation, attempt).await?;
    cx.report(&[Done { action: "built", kind: "image", name: args.recipe.clone(), operation: operation.id }])
}

async fn import(cx: &Context, args: ImportArgs) -> Result {
    let sent = Arc::new(AtomicU64::new(0));
    let mut total = 0;
    let mut open = |path: &Path| -> Result<Reader> {
        let file = std::fs::File::open(path).attempt(|| format!("read {}", path.display()))?;
        let length = file.metadata().attempt(|| format!("read {}", path.display()))?;
        if !length.is_file() {
            return Err(Failure::new(format!("read {}", path.display()), "it is no file"));
        }
        total += length.len();
        Ok(Box::new(Counted { inner: tokio::fs::File::from_std(file), sent: sent.clone() }))
    };
    let upload = match &args.rootfs {
        None => ImageUpload::Unified(open(&args.file)?),
        Some(rootfs) => ImageUpload::Split { metadata: open(&args.file)?, rootfs: open(rootfs)? },
    };
    let words = ImageWords {
        filename: args.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        aliases: args.alias,
        properties: args.property.into_iter().collect(),
        public: args.public,
        fingerprint: args.fingerprint,
    };
    let attempt: Rc<str> = format!("import image {}", args.file.display()).into();
    let sending = cx.client.import_image(upload, &words);
    let operation = tell(cx, sending, &sent, total).await.attempt(|| attempt.to_string())?;
    let done = cx.finish(&operation, || attempt.to_string()).await?;
    let fingerprint = done.metadata.as_ref().and_then(|metadata| metadata.get("fingerprint")?.as_str());
    let name = fingerprint.unwrap_or(&words.filename).to_owned();
    cx.report(&[Done { action: "imported", kind: "image", name, operation: operation.id }])
}

/// Waits for an upload, telling how far it is.
async fn tell<T>(cx: &Context, sending: impl Future<Output = T>, sent: &AtomicU64, total: u64) -> T {
    let mut sending = std::pin::pin!(sending);
    let mut clock = tokio::time::interval(std::time::Duration::from_millis(250));
    clock.tick().await;
    loop {
        tokio::select! {
            result = &mut sending => {
                cx.progress.clear();
                return result;
            }
            _ = clock.tick() => {
                let percent = sent.load(Ordering::Relaxed).saturating_mul(100).checked_div(total).unwrap_or(100);
                cx.progress.tell("upload", &format!("Sending image: {percent}%"));
            }
        }
    }
}

/// Counts what is read.
struct Counted {
    inner: tokio::fs::File,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.sent.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}
