# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""`python s3_objects.py URL KEY=FILE…`: a bucket `models` with objects, and from then on only for who may read it.

Prints the credentials of `reader`, who may, and of `nobody`, who may not, as JSON.
"""

import json
import sys
import urllib.request
from pathlib import Path

import boto3

REGION = "eu-central-1"
READING = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject"], "Resource": "*"}


def tell(url: str, what: str, content: bytes) -> None:
    """Change the store itself, by what it has for tests."""
    headers = {"content-type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/{what}", content, headers)).close()


def main(url: str, *objects: str) -> None:
    # Whoever filled it before took the rights of all others.
    tell(url, "reset-auth", b"1000000")
    tell(url, "reset", b"")
    ours = {
        "endpoint_url": url,
        "region_name": REGION,
        "aws_access_key_id": "first",
        "aws_secret_access_key": "first",
    }
    s3, iam = boto3.client("s3", **ours), boto3.client("iam", **ours)
    s3.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": REGION})
    for each in objects:
        key, _, file = each.rpartition("=")
        s3.put_object(Bucket="models", Key=key, Body=Path(file).read_bytes())
    policy = json.dumps({"Version": "2012-10-17", "Statement": [READING]})
    keys = {}
    for user in ("reader", "nobody"):
        iam.create_user(UserName=user)
        if user == "reader":
            iam.put_user_policy(UserName=user, PolicyName="reading", PolicyDocument=policy)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        keys[user] = [key["AccessKeyId"], key["SecretAccessKey"]]
    tell(url, "reset-auth", b"0")
    sys.stdout.write(json.dumps(keys) + "\n")


main(*sys.argv[1:])
