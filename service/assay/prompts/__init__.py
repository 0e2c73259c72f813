"""From items to token ids, in processes that may be killed: what a checkpoint brings is read there.

The front starts one loading process for all that is served (`loader`). It resolves names to
checkpoints, reads their files and tokenizers, and tells the front what there is (`models`); then a
process is forked from it for each model that is asked of (`renderer`). Chat templates and
tokenizers run in these alone (`process`). What crosses: `protocol`.
"""
