"""What linguist's lists (vendor.yml, documentation.yml; MIT) say of a path: whose it is, what for.

The patterns are cairn's own; bench/language.py compares their answers with those of the lists.
"""

import re

_STYLES = r"(?:css|less|scss|styl)"

# Folders anywhere in a path.
_FOLDERS = (
    r"cache|dist|node_modules|bower_components|testdata|env|vendors?|[Vv]+endor",
    r"[Ee]xtern(?:als?)?|Godeps/_workspace|\.yarn/(?:releases|plugins|sdks|versions|unplugged)",
    r"bootstrap-datepicker|\.vscode|ace-builds|MathJax|Carthage|Sparkle|admin_media|puphpet",
    r"(?:Crashlytics|Fabric|BuddyBuildSDK)\.framework|gradle/wrapper|\.mvn/wrapper|inst/extdata",
    r"docs?/_?(?:build|themes?|templates?|static)|[Tt]ests?/fixtures|[Ss]pecs?/fixtures",
    r"extjs/(?:\.sencha|docs|builds|cmd|examples|locale|packages|plugins|resources|src|welcome)",
    r"\.google_apis|\.github|\.obsidian|\.teamcity|xvba_modules|[Pp]ackages/[^\n]{1,4096}\.\d++",
)
# Whole names of files.
_NAMES = (
    r"configure|config\.(?:guess|sub)|dotnet-install\.(?:ps1|sh)|run\.n|waf|\.osx|fabfile\.py",
    r"_esy|\.git(?:attributes|ignore|modules)|gradlew(?:\.bat)?|mvnw(?:\.cmd)?|html5shiv\.js",
    r"Vagrantfile|\.[Dd][Ss]_[Ss]tore|activator(?:\.bat)?|proguard(?:\.pro|-rules\.pro)",
    r"Jenkinsfile|\.gitpod\.Dockerfile|effects\.js|controls\.js|dragdrop\.js|dojo\.js|Chart\.js",
    r"MochiKit\.js|ckeditor\.js|shCore\.js|shLegacy\.js|yahoo-[^.]*+\.js|yui[^.]*+\.js",
    rf"(?:foundation|normalize|skeleton|animate|font-?awesome)\.{_STYLES}",
    rf"materialize\.(?:{_STYLES}|js)|bulma\.(?:css|sass|scss)",
    r"jquery[^.]*+\.js|jquery-\d\.\d+(?:\.\d+)?\.js|jquery-ui(?:-\d\.\d+(?:\.\d+)?)?(?:\.\w+)?\.(?:js|css)",
    r"jquery\.(?:ui|effects)\.[^.]*+\.(?:js|css)|jquery\.fileupload(?:-\w+)?\.js",
    r"jquery[^.]*+\.(?:validate(?:\.unobtrusive)?|unobtrusive-ajax)\.js",
    r"slick\.\w+[^\n]js|Leaflet\.Coordinates-\d+\.\d+\.\d+\.src\.js|tiny_mce[^.]*+\.js",
    r"mootools[^.]*\d\.\d+[^\n]\d+[^.]*+\.js|shBrush[^.]*+\.js|angular[^.]*+\.js",
    r"d3(?:\.v\d+)?[^.]*+\.js|react(?:-[^.]*+)?\.js|modernizr-\d\.\d+(?:\.\d+)?\.js",
    r"modernizr\.custom\.\d+\.js|knockout-(?:\d+\.){3}(?:debug\.)?js|cordova[^.]*+\.js",
    r"cordova-\d\.\d(?:\.\d)?\.js|[Mm]icrosoft(?:[Mm]vc)?(?:[Aa]jax|[Vv]alidation)(?:\.debug)?\.js",
)
# What a file's or a folder's name begins with.
_BEGINS = (
    r"aclocal\.m4|libtool\.m4|lt(?:options|sugar|version|~obsolete)\.m4|cpplint\.py|erlang\.mk",
    r"\.indent\.pro|jquery\.fn\.gantt\.js|jquery\.fancybox\.(?:js|css)|fuelux\.js|bootbox\.js",
    r"jquery\.dataTables\.js",
    r"pdf\.worker\.js|leaflet\.(?:draw-src\.js|draw\.css|spin\.js)|Control\.FullScreen\.(?:css|js)",
    r"wicket-leaflet\.js|\.sublime-(?:project|workspace)|tiny_mce/(?:langs|plugins|themes|utils)",
    r"[Cc]ode[Mm]irror/(?:\d+\.\d+/)?(?:lib|mode|theme|addon|keymap|demo)|Realm(?:Swift)?\.framework",
    r"octicons\.css|sprockets-octicons\.scss",
)
# A begin anywhere in a path, with what the path ends in.
_SPANS = (
    rf"bootstrap[^/.]*+(?:\.[^\n]*)?\.(?:{_STYLES}|js)",
    rf"custom\.bootstrap\S*(?:{_STYLES}|js)",
    rf"(?:font-?awesome|[Bb]ourbon)/[^\n]*\.{_STYLES}",
    r"select2/[^\n]*\.(?:css|scss|js)",
    r"prototype[^\n]*\.js",
    r"fontello[^\n]*\.css",
    r"flow-typed/[^\n]*\.js",
    r"foundation(?:\.[^\n]*)?\.js",
    r"extjs/[^\n]*\.(?:js|xml|txt|html|properties)",
)
_VENDORED = re.compile(
    rf"(?:^|/)(?:(?:{'|'.join(_FOLDERS)})/|(?:{'|'.join(_NAMES)}|{'|'.join(_SPANS)})\Z|"
    rf"{'|'.join(_BEGINS)})"
    r"|^(?:[Dd]ependencies/|deps/|debian/|rebar\Z)|(?:3rd|[Tt]hird)[-_]?[Pp]arty/"
    r"|\.(?:xctemplate|imageset)/"
    rf"|(?:[.-]min\.(?:js|css)|import\.{_STYLES}|\.d\.ts|-vsdoc\.js|\.intellisense\.js)\Z",
    re.ASCII,
)
_DOCUMENTATION = re.compile(
    r"^(?:[Dd]ocs?|[Mm]an|[Ee]xamples|[Dd]emos?|[Ss]amples?)/"
    r"|(?:^|/)(?:(?:[Dd]ocumentation|[Gg]roovydoc|[Jj]avadoc|inst/doc)/"
    r"|CITATION(?:\.cff|S?(?:\.(?:bib|md))?)\Z"
    r"|(?:CHANGE(?:S|LOG)?|CONTRIBUTING|COPYING|INSTALL|LICEN[CS]E|[Ll]icen[cs]e|README|[Rr]eadme)(?:\.|\Z))"
)


def is_vendored(path: str) -> bool:
    """Whether the path is one where copies of other projects lie. A flag: nothing is dropped."""
    return _VENDORED.search(path) is not None


def is_documentation(path: str) -> bool:
    """Whether the path is one of documentation, examples or a project's notices."""
    return _DOCUMENTATION.search(path) is not None
