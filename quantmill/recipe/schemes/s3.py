"""`s3://bucket/prefix`: a model folder in an object store."""

from quantmill.recipe.scheme_row import Scheme, Watch, last_part
from quantmill.s3 import address

SCHEME = Scheme(
    name="s3",
    prefix=address.PREFIX,
    title="a model folder in an object store",
    form="s3://bucket/prefix",
    rule=address.RULE,
    example="s3://models/incoming/base",
    parse=address.parse,
    model_name=last_part,
    revision="",
    remote=True,
    third_party=False,
    on_hub=False,
    watch=Watch(form="s3://bucket/prefix/pattern", place=address.parse, settles=True),
)
