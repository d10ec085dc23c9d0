"""Texts that are no UTF-8: letters tell the encoding, and Western texts stay as they were."""

import time

import pytest

from cairn.curate.annotate import decode
from cairn.curate.encodings import guess

JAPANESE = "# この関数は二つの数を足して、結果を返します。エラーがあれば例外を投げる\n"
CHINESE = "# 这个函数把两个数相加并返回结果，如果参数错误就抛出异常\n"
TAIWAN = "# 這個函式把兩個數相加並傳回結果，如果參數錯誤就丟出例外\n"
KOREAN = "# 이 함수는 두 수를 더하고 결과를 반환합니다. 오류가 있으면 예외를 던진다\n"
RUSSIAN = "# Эта функция складывает два числа и возвращает результат\n"
GREEK = "# Αυτή η συνάρτηση προσθέτει δύο αριθμούς και επιστρέφει το αποτέλεσμα\n"
CODE = "def add(one, two):\n    return one + two\n"
WESTERN = (
    "# Somas de verificação habilitadas: anotação, não é opção, função à mão\n",
    "# Größe ändern, für über Öl: Maß, Straße, Übung\n",
    "# déjà vu: l’été à l’hôtel, où ça coûte très cher, créée\n",
    "# © 2004 José Muñoz – «señor», ¿qué?\n",
    "# Länge från åtta till ö: ändå är på, måste\n",
)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
        (TAIWAN, "big5"),
        (KOREAN, "cp949"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp866"),
        (GREEK, "cp1253"),
    ],
)
def test_the_letters_tell_the_encoding(text: str, encoding: str) -> None:
    whole = text + CODE
    assert decode(whole.encode(encoding)) == (whole, encoding)
    assert decode(whole.encode()) == (whole, "utf-8")


@pytest.mark.parametrize("text", WESTERN)
def test_western_texts_stay(text: str) -> None:
    assert decode((text + CODE).encode("cp1252")) == (text + CODE, "cp1252")


def test_few_or_random_bytes_tell_nothing() -> None:
    assert guess(b"") is None
    assert guess("# café".encode("cp1252")) is None
    assert decode(b"caf\xe9") == ("café", "cp1252")
    assert guess(bytes(range(128, 256)) * 10) is None
    assert decode(bytes(range(128, 256)))[1] == "latin-1"


@pytest.mark.parametrize(
    "unit", [b"\xff", b"\x81", b"\xb0\xa1", b"a\xe9", b"\x84\x31\x95\x33", b"\xe3\xe0"]
)
def test_time_is_linear_and_the_text_can_be_kept(unit: bytes) -> None:
    spent = []
    for size in (200_000, 2_000_000):
        raw = b"\xff" + unit * (size // len(unit))
        begin = time.process_time()
        text, _ = decode(raw)
        spent.append(time.process_time() - begin)
        text.encode("utf-8")
    assert spent[1] < 40 * max(spent[0], 0.02)


@pytest.mark.parametrize(
    "said", ["punycode", "unicode_escape", "hex", "undefined", "a\0b", "", "?"]
)
def test_what_an_origin_says_is_held_against_what_files_are_written_in(said: str) -> None:
    raw = b"a\\u0041 = 1\n" + b"a" * 2_000_000  # quadratic as Punycode
    assert decode(raw, said) == (raw.decode(), "utf-8")
    assert decode("é".encode("cp1250"), "cp1250") == ("é", "cp1250")
