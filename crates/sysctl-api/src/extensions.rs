//! What the server says that it can do. An extension stands here only when its endpoints exist and pass tests.

/// Extensions of the common wire.
pub const EXTENSIONS: &[&str] = &[
    "api_filtering",
    "console",
    "container_exec_signal_handling",
    "container_exec_user_group_cwd",
    "container_full",
    "container_stateful_snapshots_none",
    "directory_manipulation",
    "etag",
    "event_lifecycle",
    "event_lifecycle_name_and_project",
    "event_lifecycle_requestor",
    "event_project",
    "file_append",
    "file_delete",
    "file_get_symlink",
    "file_symlinks",
    "id_map",
    "image_create_aliases",
    "instance_all_projects",
    "instance_bulk_state_change",
    "instance_create_start",
    "instance_get_full",
    "instances",
    "network",
    "network_leases",
    "network_state",
    "operation_description",
    "operation_wait",
    "operations_get_query_all_projects",
    "patch",
    "projects",
    "resource_limits",
    "storage",
    "storage_api_project",
    "usedby_consistency",
];

/// Our own.
pub const OWN_EXTENSIONS: &[&str] =
    &["sysctl_events_since", "sysctl_explain", "sysctl_namespaces", "sysctl_plan", "sysctl_streams_resume"];
