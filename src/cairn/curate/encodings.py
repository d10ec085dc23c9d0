"""In which encoding a text is that is no UTF-8: the report's code asks a library that guesses.

Every encoding that fits is tried, and the one whose letters are those that its languages use most
wins. Letters of such scripts stand beside each other, as accented ones of Western Europe do not.
"""

import re
from functools import cache
from itertools import islice

SHORTEST = 4  # bytes above 127 that tell anything
TOGETHER = 0.7  # least share of such bytes that stand in rows of enough of them
USUAL = 0.3  # least score: the share of letters beyond ASCII that are among the usual ones
KNOWN = 0.35  # of the score of Chinese and Korean, what the common thousands of characters count
SAMPLE = 2**16  # letters that are counted

_KANA = "".join(map(chr, (*range(0x3041, 0x3094), *range(0x30A1, 0x30F7))))
_SIGNS = "\u3000\u3001\u3002\uff0c\uff1a\uff08\uff09\uff01\uff1b\u30fb\u30fc"
_SIMPLE = (
    "的一是不了在有和中这个上为以时到大用来们对出要于会可你能就他说生下过子地年都也得自"
    "数据文件名字符串返回值参函类型方法如果当前对象设置接口列表查询请求输入错误信息处理使更新"
    "获取加载定义初始化删除创建测试服务器配置页面显示状态时间代码内容长度开始结束第二三"
)
_TRADITIONAL = (
    "的一是不了在有和中這個上為以時到大用來們對出要於會可你能就他說生下過子地年都也得自"
    "數據檔案名字串傳回值參函類型方法如果當前物件設定介面列表查詢請輸入錯誤訊息處理使更新"
    "資料取載定義初始化刪除建立測試服務器頁面顯示狀態時間程式碼內容長度開始結束第二三"
)
_HANGUL = (
    "이다는을의에가하고로를지은한기도사자인리서아어스시대정나일수그해라부있게보전만안제"
    "여주들과장으오상간원신동세경위조치성공적비면니드당없모구습력값함변파출입행생용문데터열"
)
_CYRILLIC = "оеаинтсрвлкмдпуяьызбг"
_GREEK = "αοιετνσηυρπκμλςάίόέήώ"

# Python's names. Rows of one or two bytes above 127 are what accents of Western Europe make, so
# alphabets need rows of three; a character of Asia may stand alone, in two bytes, of which some
# encodings take the second from ASCII.
_CANDIDATES: tuple[tuple[str, str, int], ...] = (
    ("cp932", _KANA + _SIGNS, 1),
    ("euc_jp", _KANA + _SIGNS, 2),
    ("cp949", _HANGUL, 2),
    ("gb18030", _SIMPLE + _SIGNS, 2),
    ("big5", _TRADITIONAL + _SIGNS, 1),
    ("cp1251", _CYRILLIC, 3),
    ("koi8-r", _CYRILLIC, 3),
    ("cp866", _CYRILLIC, 3),
    ("cp1253", _GREEK, 3),
)
# The standard, and the first bytes of its common part.
_TAUGHT = {
    "gb18030": ("gb2312", 0xB0, 0xD7),
    "big5": ("big5", 0xA4, 0xC6),
    "cp949": ("euc_kr", 0xB0, 0xC8),
}
_ROWS = {least: re.compile(rb"[\x80-\xff]{%d,}+" % least) for least in (1, 2, 3)}


def guess(raw: bytes) -> str | None:
    """An encoding that fits the bytes and the letters of its languages; None where none does."""
    count = len(raw) - len(raw.translate(None, _HIGH))
    if count < SHORTEST:
        return None
    rows = {least: sum(map(len, row.findall(raw))) for least, row in _ROWS.items()}
    scores = [
        (_score(raw, encoding, usual), -place)
        for place, (encoding, usual, least) in enumerate(_CANDIDATES)
        if rows[least] >= TOGETHER * count
    ]
    score, place = max(scores, default=(0.0, 0))
    return _CANDIDATES[-place][0] if score >= USUAL else None


_HIGH = bytes(range(128, 256))


def _score(raw: bytes, encoding: str, usual: str) -> float:
    """The share of the letters beyond ASCII that are usual; 0 where the bytes do not fit."""
    try:
        text = raw.decode(encoding)
        text.encode("utf-8")  # halves of characters fit in some, and nowhere else
    except UnicodeError:
        return 0.0
    letters = list(islice((char for char in text if char > "\x7f"), SAMPLE))
    share = _share(letters, frozenset(usual))
    if encoding in _TAUGHT:
        share = KNOWN * _share(letters, _taught(encoding)) + (1 - KNOWN) * share
    return share


def _share(letters: list[str], among: frozenset[str]) -> float:
    return sum(char in among for char in letters) / max(len(letters), 1)


@cache
def _taught(encoding: str) -> frozenset[str]:
    """The characters that a standard has in its common part."""
    standard, first, last = _TAUGHT[encoding]
    pairs = (bytes((one, two)) for one in range(first, last + 1) for two in range(0x40, 0xFF))
    return frozenset("".join(pair.decode(standard, "ignore") for pair in pairs)) - {"\0"}
