//! Images and their aliases.

use hyper::Method;
use sysctl_api::{Image, ImageAlias, ImageAliasEntry, ImagePost, ImagePut, ImageSource, Operation};

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
use crate::instances::ListOptions;
use crate::upload::{self, Reader};
use crate::uri::{self, Uri};

const IMAGES: &str = "/1.0/images";
const ALIASES: &str = "/1.0/images/aliases";

/// The bytes of an image.
pub enum ImageUpload {
    /// One archive with the metadata and the root in it.
    Unified(Reader),
    /// An archive of metadata, and the root as an archive or a squashfs.
    Split {
        /// Metadata.
        metadata: Reader,
        /// Root.
        rootfs: Reader,
    },
}

/// What is said about an image that is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageWords {
    /// Name of its file.
    pub filename: String,
    /// Names that it gets.
    pub aliases: Vec<String>,
    /// Properties, over those in its metadata.
    pub properties: sysctl_api::Config,
    /// Everybody may have it.
    pub public: bool,
    /// SHA-256 that it must have.
    pub fingerprint: Option<String>,
}

fn image(fingerprint: &str) -> Uri {
    Uri::new(IMAGES).part(fingerprint)
}

fn alias(name: &str) -> Uri {
    Uri::new(ALIASES).parts(name)
}

impl Client {
    /// Images that are here.
    pub async fn get_images(&self, options: &ListOptions) -> Result<Vec<Image>> {
        self.get(options.apply(Uri::new(IMAGES), "1")).await
    }

    /// An image by its fingerprint or the beginning of one.
    pub async fn get_image(&self, fingerprint: &str) -> Result<Tagged<Image>> {
        self.get_tagged(image(fingerprint)).await
    }

    /// Changes what is said about an image.
    pub async fn update_image(&self, fingerprint: &str, put: &ImagePut, etag: Option<&str>) -> Result<()> {
        self.send::<Nothing>(Method::PUT, image(fingerprint), put, etag).await.map(drop)
    }

    /// Deletes an image; instances made from it go on.
    pub async fn delete_image(&self, fingerprint: &str) -> Result<Operation> {
        self.delete(image(fingerprint)).await
    }

    /// Sends an image. It is read as it is sent, so its size does not matter to memory.
    pub async fn import_image(&self, upload: ImageUpload, words: &ImageWords) -> Result<Operation> {
        let (kind, body) = match upload {
            ImageUpload::Unified(reader) => ("application/octet-stream".to_owned(), upload::single(reader)),
            ImageUpload::Split { metadata, rootfs } => {
                upload::form(vec![("metadata", "metadata", metadata), ("rootfs", "rootfs", rootfs)])
            }
        };
        let properties = uri::form(words.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let aliases = uri::form(words.aliases.iter().map(|name| ("alias", name.as_str())));
        let filename: String = words.filename.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        let fingerprint = words.fingerprint.clone().unwrap_or_default();
        let public = if words.public { "1" } else { "" };
        let mut headers = vec![("content-type", kind.as_str())];
        headers.extend(
            [
                ("x-incus-filename", filename.as_str()),
                ("x-incus-properties", properties.as_str()),
                ("x-incus-aliases", aliases.as_str()),
                ("x-incus-public", public),
                ("x-incus-fingerprint", fingerprint.as_str()),
            ]
            .into_iter()
            .filter(|(_, value)| !value.is_empty()),
        );
        self.upload(Uri::new(IMAGES), &headers, body).await
    }

    /// Makes an image from something that the server has.
    pub async fn create_image(&self, post: &ImagePost) -> Result<Operation> {
        self.send(Method::POST, Uri::new(IMAGES), post, None).await
    }

    /// Builds an image from one of the server's recipes, and gives it names.
    pub async fn build_image(&self, recipe: &str, aliases: &[String]) -> Result<Operation> {
        let source = ImageSource { kind: "recipe".into(), alias: recipe.to_owned(), ..ImageSource::default() };
        let aliases = aliases.iter().map(|name| ImageAlias { name: name.clone(), ..ImageAlias::default() });
        self.create_image(&ImagePost { source: Some(source), aliases: aliases.collect(), ..ImagePost::default() }).await
    }

    /// Aliases, those of recipes that were not built yet among them.
    pub async fn get_image_aliases(&self) -> Result<Vec<ImageAliasEntry>> {
        self.get(Uri::new(ALIASES).query("recursion", "1")).await
    }

    /// What an alias stands for.
    pub async fn get_image_alias(&self, name: &str) -> Result<Tagged<ImageAliasEntry>> {
        self.get_tagged(alias(name)).await
    }

    /// Gives an image another name.
    pub async fn create_image_alias(&self, post: &ImageAliasEntry) -> Result<()> {
        self.send::<Nothing>(Method::POST, Uri::new(ALIASES), post, None).await.map(drop)
    }

    /// Takes a name away.
    pub async fn delete_image_alias(&self, name: &str) -> Result<()> {
        self.delete::<Nothing>(alias(name)).await.map(drop)
    }
}
