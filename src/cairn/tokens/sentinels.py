"""The sentinels of cairn's own tokenizers: names and ids.

Ids 0 to 33 are Table 5 of StarCoder2 (arXiv 2402.19173) in its order, 34 to 37 what redaction
writes in place of personal data, 38 to 40 the role marks of Nemotron Nano 2's chat template.
"""

END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX = "<fim_prefix>"
FIM_MIDDLE = "<fim_middle>"
FIM_SUFFIX = "<fim_suffix>"
REPO_NAME = "<repo_name>"
FILE_SEP = "<file_sep>"
ISSUE_COMMENT = "<issue_comment>"
CODE_TO_INTERMEDIATE = "<code_to_intermediate>"
INTERMEDIATE_TO_CODE = "<intermediate_to_code>"
SYSTEM_TURN = "<SPECIAL_10>"
TURN = "<SPECIAL_11>"
END_OF_TURN = "<SPECIAL_12>"

SENTINELS: tuple[str, ...] = (
    END_OF_TEXT,
    FIM_PREFIX,
    FIM_MIDDLE,
    FIM_SUFFIX,
    "<fim_pad>",
    REPO_NAME,
    FILE_SEP,
    "<issue_start>",
    ISSUE_COMMENT,
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
    CODE_TO_INTERMEDIATE,
    INTERMEDIATE_TO_CODE,
    "<pr>",
    "<pr_status>",
    "<pr_is_merged>",
    "<pr_base>",
    "<pr_file>",
    "<pr_base_code>",
    "<pr_diff>",
    "<pr_diff_hunk>",
    "<pr_comment>",
    "<pr_event_id>",
    "<pr_review>",
    "<pr_review_state>",
    "<pr_review_comment>",
    "<pr_in_reply_to_review_id>",
    "<pr_in_reply_to_comment_id>",
    "<pr_diff_hunk_comment_line>",
    "<NAME>",
    "<EMAIL>",
    "<KEY>",
    "<PASSWORD>",
    SYSTEM_TURN,
    TURN,
    END_OF_TURN,
)
