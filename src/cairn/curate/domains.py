"""Which endings of a name are top-level domains: a test that code such as x@self.weight fails."""

# Country codes that are delegated, and the endings under which people have mail. Endings that are
# also those of files or attributes of code (.py is Paraguay's) count: mail goes there too.
_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs "
    "bt bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee "
    "eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm "
    "hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb "
    "lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz "
    "na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs "
    "ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl "
    "tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_OTHERS = (
    "com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat asia "
    "xxx app dev cloud tech online site store blog page news media live email systems solutions "
    "services company consulting agency digital design studio software technology academy school "
    "university foundation ngo science engineering games team group world today life zone network "
    "host hosting codes club shop art ninja guru rocks space website wiki work works xyz top vip "
    "bio law"
)
_TOP_LEVEL = frozenset(f"{_COUNTRIES} {_OTHERS}".split())


def is_top_level(label: str) -> bool:
    """Whether mail can end in this label."""
    return label.lower() in _TOP_LEVEL
