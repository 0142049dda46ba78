"""A bucket that is ready for use: it exists, and browsers of the site may upload to it and read from it."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from storage.s3 import S3Store
from storage.s3_client import not_known, translated

METHODS = ("GET", "HEAD", "POST", "PUT")
_NO_RULES = {"NoSuchCORSConfiguration", "404"}


def prepare(store: S3Store, origin: str) -> list[str]:
    """Make what is missing, and nothing else; safe to repeat. ``origin``: the site's, as browsers send it. Returns what was done."""
    with translated(store.bucket):
        return [*_make_bucket(store), *_allow(store, origin)]


def allows(rules: list[dict[str, Any]], origin: str) -> bool:
    """Whether one of the bucket's CORS rules lets pages of ``origin`` do all that they need."""
    return any(
        {"*", origin} & set(rule.get("AllowedOrigins", []))
        and set(METHODS) <= set(rule.get("AllowedMethods", []))
        and "*" in rule.get("AllowedHeaders", [])
        for rule in rules
    )


def _make_bucket(store: S3Store) -> list[str]:
    try:
        store.client.head_bucket(Bucket=store.bucket)
        return []
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
            raise
    region = store.client.meta.region_name
    where: dict[str, Any] = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region not in (None, "us-east-1") else {}
    store.client.create_bucket(Bucket=store.bucket, **where)
    return [f"made the bucket {store.bucket}"]


def _allow(store: S3Store, origin: str) -> list[str]:
    try:
        rules = cors_rules(store)
        if allows(rules, origin):
            return []
        own = {"AllowedOrigins": [origin], "AllowedMethods": list(METHODS), "AllowedHeaders": ["*"], "ExposeHeaders": ["ETag"]}
        store.client.put_bucket_cors(Bucket=store.bucket, CORSConfiguration={"CORSRules": [*rules, own | {"MaxAgeSeconds": 3600}]})
    except ClientError as error:
        if not not_known(error):
            raise
        return ["the store has no CORS rules for buckets: see to it in its own configuration that the site may upload"]
    return [f"browsers at {origin} may upload to and read from {store.bucket}"]


def cors_rules(store: S3Store) -> list[dict[str, Any]]:
    try:
        return list(store.client.get_bucket_cors(Bucket=store.bucket)["CORSRules"])
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _NO_RULES:
            return []
        raise
